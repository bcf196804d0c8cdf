package instance

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/gpupool/gpupool/internal/engine"
)

// actTime bounds an act of an operator: to finish requests, and to move weights.
const actTime = 5 * time.Minute

// Admin answers what operators ask of instances:
//
//	POST /v1/instances/ID/drain?reason=TEXT  no new requests until undrain
//	POST /v1/instances/ID/undrain
//	POST /v1/instances/ID/sleep              drain, wait until it is idle, put it to sleep
//	POST /v1/instances/ID/wake
//
// It asks nobody who they are: the caller does.
func (w *Watcher) Admin() http.Handler {
	mux := http.NewServeMux()
	handle := func(verb string, act func(ctx context.Context, id string, r *http.Request) error) {
		mux.HandleFunc("POST /v1/instances/{id}/"+verb, func(rw http.ResponseWriter, r *http.Request) {
			_ = http.NewResponseController(rw).SetWriteDeadline(time.Now().Add(actTime + 10*time.Second)) // longer than the server's
			ctx, cancel := context.WithTimeout(r.Context(), actTime)
			defer cancel()
			id := r.PathValue("id")
			err := act(ctx, id, r)
			if err != nil {
				http.Error(rw, err.Error(), codeOf(err))
				return
			}
			w.cfg.Log.Info("done as an operator asked", "verb", verb, "instance", id)
			rw.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(rw).Encode(map[string]string{"instance": id, "done": verb})
		})
	}
	handle("drain", func(_ context.Context, id string, r *http.Request) error {
		return w.Drain(id, orElse(r.URL.Query().Get("reason"), "no reason given"))
	})
	handle("undrain", func(_ context.Context, id string, _ *http.Request) error { return w.Undrain(id) })
	handle("sleep", func(ctx context.Context, id string, _ *http.Request) error { return w.Sleep(ctx, id) })
	handle("wake", func(ctx context.Context, id string, _ *http.Request) error { return w.Wake(ctx, id) })
	return mux
}

func codeOf(err error) int {
	switch {
	case errors.Is(err, ErrUnknown):
		return http.StatusNotFound
	case errors.Is(err, ErrNotReady), errors.Is(err, engine.ErrCannotSleep):
		return http.StatusConflict
	}
	return http.StatusBadGateway
}
