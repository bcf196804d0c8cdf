package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/board"
	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/pool"
)

// hostFlags are what all words to say share.
type hostFlags struct {
	consulFlags
	pool, reason, by string
}

func newHost() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "Say what is to become of a host, whatever the autoscaler wants",
		Long: `Say what is to become of a host, whatever the autoscaler wants. The word is kept
in Consul with who said it and why, is heard by whoever acts on the pool at its
next look, and stands until it is taken back with "gpupool host release".`,
		Args: cobra.NoArgs,
	}
	for _, w := range []struct {
		word     pool.Word
		use, doc string
	}{
		{pool.WordHold, "hold", "Leave hosts exactly as they are"},
		{pool.WordDrain, "drain", "Take hosts out of service, with their work, and leave them on"},
		{pool.WordOff, "off", "Take hosts out of service, with their work, and keep them off"},
		{pool.WordOn, "on", "Power hosts on and keep them in service"},
		{pool.WordNone, "release", "Take back what was said about hosts: the pool decides again"},
	} {
		cmd.AddCommand(newWord(w.word, w.use, w.doc))
	}
	cmd.AddCommand(newWords())
	return cmd
}

func newWord(word pool.Word, use, doc string) *cobra.Command {
	var f hostFlags
	cmd := &cobra.Command{
		Use:           use + " HOST...",
		Short:         doc,
		Args:          cobra.MinimumNArgs(1),
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, hosts []string) error {
			if word != pool.WordNone && strings.TrimSpace(f.reason) == "" {
				return errors.New("--reason: say why: somebody will ask")
			}
			client, err := consul.New(f.cfg)
			if err != nil {
				return err
			}
			said := pool.Said{Word: word, Reason: strings.TrimSpace(f.reason), By: cmp.Or(f.by, whoAmI()), At: time.Now().UTC().Truncate(time.Second)}
			var errs []error
			for _, host := range hosts {
				errs = append(errs, say(cmd.Context(), cmd.OutOrStdout(), client, f.pool, host, said))
			}
			return errors.Join(errs...)
		},
	}
	cmd.ValidArgsFunction = offer(consulHosts(&f.consulFlags))
	f.register(cmd)
	fl := cmd.Flags()
	fl.StringVar(&f.pool, "pool", "", "the pool that the host is in, where several have one of that name")
	if word != pool.WordNone {
		fl.StringVar(&f.reason, "reason", "", "why, in a few words (required)")
		fl.StringVar(&f.by, "by", "", "who says it (default USER@MACHINE)")
	}
	return cmd
}

// say records one word and tells what it stands in the place of.
func say(ctx context.Context, out io.Writer, client *consul.Client, name, host string, said pool.Said) error {
	name, err := poolOf(ctx, client, name, host)
	if err != nil {
		return err
	}
	records := client.Pool(name)
	words, err := records.Words(ctx)
	if err != nil {
		return err
	}
	before := words[host]
	said.Rev = before.Rev
	if said.Word == pool.WordNone && before.Rev == 0 {
		_, err := fmt.Fprintf(out, "%s: nothing was said of it\n", host)
		return err
	}
	_, err = records.Say(ctx, host, said)
	switch {
	case errors.Is(err, consul.ErrStale):
		return fmt.Errorf("%s: somebody else said something of it at the same moment; see `gpupool host list`: %w", host, err)
	case err != nil:
		return err
	}
	text := fmt.Sprintf("%s: %s", host, said.Word)
	if said.Word == pool.WordNone {
		text = host + ": released"
	}
	if before.Rev != 0 {
		text += fmt.Sprintf(", in the place of %s by %s", before.Word, cmp.Or(before.By, "nobody known"))
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

// whoAmI is the person at the keyboard, as far as it is known.
func whoAmI() string {
	who := os.Getenv("SUDO_USER")
	if who == "" {
		if u, err := user.Current(); err == nil {
			who = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return cmp.Or(who, "somebody") + "@" + host
}

// word is one line of `gpupool host list`.
type word struct {
	Pool string `json:"pool"`
	Host string `json:"host"`
	pool.Said
}

func newWords() *cobra.Command {
	var f consulFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:           "list [POOL...]",
		Short:         "List what was said about hosts and stands",
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, pools []string) error {
			client, err := consul.New(f.cfg)
			if err != nil {
				return err
			}
			words, err := wordsOf(cmd.Context(), client, pools)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), words)
			}
			return printWords(cmd.OutOrStdout(), words, time.Now())
		},
	}
	cmd.ValidArgsFunction = offer(consulPools(&f))
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func wordsOf(ctx context.Context, client *consul.Client, pools []string) ([]word, error) {
	if len(pools) == 0 {
		var err error
		if pools, err = client.Pools(ctx); err != nil {
			return nil, err
		}
	}
	words := []word{}
	for _, name := range pools {
		said, err := client.Pool(name).Words(ctx)
		if err != nil {
			return nil, err
		}
		for _, host := range sortedKeys(said) {
			words = append(words, word{name, host, said[host]})
		}
	}
	return words, nil
}

func printWords(out io.Writer, words []word, now time.Time) error {
	if len(words) == 0 {
		_, err := fmt.Fprintln(out, "nothing was said: the pools decide")
		return err
	}
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tHOST\tWORD\tBY\tFOR\tREASON")
	for _, w := range words {
		age := "?"
		if !w.At.IsZero() {
			age = board.Age(now.Sub(w.At))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", w.Pool, w.Host, w.Word, cmp.Or(w.By, "?"), age, w.Reason)
	}
	return t.Flush()
}

func printJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
