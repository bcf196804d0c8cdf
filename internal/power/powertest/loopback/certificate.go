package loopback

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Certificate is what kind a service has.
type Certificate int

// The kinds of certificate.
const (
	CASigned   Certificate = iota // by a CA of the test, whose certificate is CAFile
	SelfSigned                    // as BMCs come with
	Expired                       // by the CA, and an hour too old
	WrongName                     // by the CA, for another address
)

// newCertificate makes the certificate of a service, and a file with that of
// whoever signed it.
func newCertificate(t testing.TB, kind Certificate, ip netip.Addr) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "gpupool test"},
		NotBefore: now.Add(-48 * time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IPAddresses: []net.IP{ip.AsSlice()},
	}
	switch kind {
	case Expired:
		leaf.NotAfter = now.Add(-time.Hour)
	case WrongName:
		leaf.IPAddresses = []net.IP{{192, 0, 2, 1}}
	}
	issuer, issuerKey := leaf, key
	if kind != SelfSigned {
		if issuerKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		issuer = &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gpupool test CA"},
			NotBefore: leaf.NotBefore, NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
			KeyUsage: x509.KeyUsageCertSign,
		}
	}
	leafDER, err := x509.CreateCertificate(rand.Reader, leaf, issuer, &key.PublicKey, issuerKey)
	if err != nil {
		t.Fatal(err)
	}
	issuerDER := leafDER
	if kind != SelfSigned {
		if issuerDER, err = x509.CreateCertificate(rand.Reader, issuer, issuer, &issuerKey.PublicKey, issuerKey); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuerDER}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{leafDER}, PrivateKey: key}, file
}

func fingerprint(c tls.Certificate) string {
	sum := sha256.Sum256(c.Certificate[0])
	return "sha256:" + hex.EncodeToString(sum[:])
}
