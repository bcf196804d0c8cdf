package main

import (
	"context"
	"fmt"

	nomadapi "github.com/hashicorp/nomad/api"

	"github.com/gpupool/gpupool/internal/nomad"
	"github.com/gpupool/gpupool/internal/secret"
)

// tokened is Nomad with the token read anew for each request, since it may be
// renewed while the agent runs. Each user has its own, and sends one request at
// a time.
type tokened struct {
	client *nomad.Client
	token  secret.Ref
}

// askNomad is a client of the Nomad agent on this host. It does no I/O.
func askNomad(cfg config) (tokened, error) {
	api := nomadapi.DefaultConfig()
	api.Address = cfg.instances.Nomad
	client, err := nomad.New(nomad.Config{API: api})
	if err != nil {
		return tokened{}, fmt.Errorf("-nomad %.200q: %w", cfg.instances.Nomad, err)
	}
	return tokened{client, secret.Ref(cfg.instances.Token)}, nil
}

func (n tokened) fresh() (*nomad.Client, error) {
	if n.token == "" {
		return n.client, nil
	}
	token, err := n.token.Resolve()
	if err != nil {
		return nil, fmt.Errorf("Nomad token: %w", err)
	}
	n.client.SetToken(token)
	return n.client, nil
}

func (n tokened) NodeID(ctx context.Context, name string) (string, error) {
	c, err := n.fresh()
	if err != nil {
		return "", err
	}
	return c.NodeID(ctx, name)
}

func (n tokened) Drain(ctx context.Context, nodeID string, spec nomad.DrainSpec) error {
	c, err := n.fresh()
	if err != nil {
		return err
	}
	return c.Drain(ctx, nodeID, spec)
}

func (n tokened) GiveBack(ctx context.Context, nodeID, mark string) (bool, error) {
	c, err := n.fresh()
	if err != nil {
		return false, err
	}
	return c.GiveBack(ctx, nodeID, mark)
}

// SetMeta sets metadata of this host's node.
func (n tokened) SetMeta(ctx context.Context, node string, meta map[string]*string) error {
	id, err := n.NodeID(ctx, node)
	if err != nil {
		return err
	}
	return n.client.SetNodeMeta(ctx, id, meta)
}
