package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/gpupool/gpupool/internal/consul"
	"github.com/gpupool/gpupool/internal/inventory"
)

// What a shell offers at the TAB key. Nobody is told why there is nothing to
// offer, and no power controller is asked.

// offer makes a completion of names.
func offer(names func(cmd *cobra.Command) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		var fit []string
		for _, name := range names(cmd) {
			if strings.HasPrefix(name, begun) {
				fit = append(fit, name)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}

// inventoryOf reads the inventory of a command's --pools.
func inventoryOf(cmd *cobra.Command) []inventory.Pool {
	inv, err := inventory.Load(cmd.Flag("pools").Value.String(), nil, inventory.Lenient())
	if err != nil {
		return nil
	}
	return inv.Pools
}

func inventoryPools(cmd *cobra.Command) []string {
	var names []string
	for _, p := range inventoryOf(cmd) {
		names = append(names, p.Name)
	}
	return names
}

// inventoryHosts are the hosts, and the words that may follow them.
func inventoryHosts(cmd *cobra.Command) []string {
	var names []string
	for _, p := range inventoryOf(cmd) {
		for _, h := range p.Hosts {
			names = append(names, h.ID)
		}
	}
	return append(names, sortedKeys(powerVerbs)...)
}

// consulPools and consulHosts are those that Consul knows.
func consulPools(f *consulFlags) func(*cobra.Command) []string {
	return func(cmd *cobra.Command) []string {
		client, err := consul.New(f.cfg)
		if err != nil {
			return nil
		}
		names, _ := client.Pools(cmd.Context())
		return names
	}
}

func consulHosts(f *consulFlags) func(*cobra.Command) []string {
	return func(cmd *cobra.Command) []string {
		client, err := consul.New(f.cfg)
		if err != nil {
			return nil
		}
		var hosts []string
		for _, name := range consulPools(f)(cmd) {
			s, err := client.Pool(name).Status(cmd.Context())
			if err != nil {
				continue
			}
			for _, h := range s.Hosts {
				hosts = append(hosts, h.ID)
			}
		}
		return hosts
	}
}
