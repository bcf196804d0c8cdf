package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"time"

	"github.com/gpupool/gpupool/internal/power/redfish/redfishtest"
)

const redfishPort = "443"

// Redfish is the other way into a BMC: the same chassis that IPMI powers, over
// HTTPS with a certificate of its own, as BMCs come with. It is served by the
// process that started the lab.
type Redfish struct {
	Address     string // host:port
	Fingerprint string // of its certificate, as drivers pin it

	service *redfishtest.Service
	server  *http.Server
}

// Resets are the ResetTypes that were asked for, in order.
func (r *Redfish) Resets() []string { return r.service.Resets() }

// serveRedfish opens the BMC of a host to Redfish.
func (h *Host) serveRedfish(ctx context.Context) error {
	certificate, err := selfSigned(net.ParseIP(h.BMC))
	if err != nil {
		return fmt.Errorf("lab: certificate of the BMC of %s: %w", h.Name, err)
	}
	r := &Redfish{Address: net.JoinHostPort(h.BMC, redfishPort)}
	sum := sha256.Sum256(certificate.Certificate[0])
	r.Fingerprint = "sha256:" + hex.EncodeToString(sum[:])
	r.service = redfishtest.New(redfishtest.Options{Username: h.User, Password: h.lab.password, Hardware: chassis{h}})
	r.server = &http.Server{
		Handler: r.service, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", r.Address)
	if err != nil {
		return fmt.Errorf("lab: Redfish of %s: %w", h.Name, err)
	}
	h.Redfish = r
	go func() { _ = r.server.ServeTLS(l, "", "") }()
	return nil
}

// chassis powers a host in the place of its BMC, over IPMI.
type chassis struct{ host *Host }

func (c chassis) On(ctx context.Context) (bool, error) { return c.host.PowerState(ctx) }

func (c chassis) Reset(ctx context.Context, kind string) error {
	switch kind {
	case "On":
		return c.host.PowerOn(ctx)
	case "GracefulShutdown":
		return c.host.SoftOff(ctx)
	case "ForceOff":
		return c.host.HardOff(ctx)
	}
	return fmt.Errorf("lab: there is no reset %q", kind)
}

func selfSigned(ip net.IP) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: ip.String()}, IPAddresses: []net.IP{ip},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &key.PublicKey, key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}
