package dbserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tiergate/tiergate/internal/loops"
)

// download is a server that can be fetched; its programs are then in CACHE/folder/bin.
type download struct {
	title  string // for progress and errors
	folder string
	bin    string
	unpack func(ctx context.Context, into string) error // into an empty folder
}

// fetch returns a cached server, else fetches one. Distributions come first: their packages are complete.
func (f *finder) fetch(ctx context.Context) (*programs, error) {
	list, refused := f.downloads(f)
	f.refused = append(f.refused, refused...)
	for _, d := range list {
		if p := f.cached(ctx, d); p != nil {
			return p, nil
		}
	}
	if f.source == "off" {
		list = nil
		f.refused = append(f.refused, errors.New("TIERGATE_FETCH is off"))
	}
	if len(list) > 0 {
		unlock, err := lock(ctx, f.cache)
		if err != nil {
			return nil, err
		}
		defer unlock()
	}
	for _, d := range list {
		if p := f.cached(ctx, d); p != nil { // another process was faster
			return p, nil
		}
		f.log.Info("fetching a private server, once", "server", f.kind, "from", d.title, "into", f.cache)
		if err := f.unpack(ctx, d); err != nil {
			f.refused = append(f.refused, fmt.Errorf("%s: %w", d.title, err))
			continue
		}
		if p := f.cached(ctx, d); p != nil {
			return p, nil
		}
	}
	return nil, &loops.Fault{Step: "find " + f.kind, Err: errors.Join(append([]error{ErrMissing}, f.refused...)...), Hint: f.hint}
}

// takes tells whether servers may come from a source: "apt" or "npm".
func (f *finder) takes(source string) bool {
	return f.source == "" || f.source == "off" || f.source == source
}

// cached returns a server that was fetched before; nil if there is none.
func (f *finder) cached(ctx context.Context, d download) *programs {
	bin := filepath.Join(f.cache, d.folder, d.bin)
	if _, err := os.Stat(bin); err != nil {
		return nil
	}
	return f.suitable(ctx, bin)
}

// once makes a folder of the cache unless it is there.
func (f *finder) once(ctx context.Context, d download) error {
	final := filepath.Join(f.cache, d.folder)
	if _, err := os.Stat(final); err == nil {
		return nil
	}
	unlock, err := lock(ctx, f.cache)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil { // another process was faster
		return nil
	}
	return f.unpack(ctx, d)
}

// unpack fetches under another name first: a folder in the cache is always complete.
func (f *finder) unpack(ctx context.Context, d download) error {
	tmp, err := os.MkdirTemp(f.cache, "incomplete-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := d.unpack(ctx, tmp); err != nil {
		return err
	}
	final := filepath.Join(f.cache, d.folder)
	if err := os.RemoveAll(final); err != nil { // there, but unusable
		return err
	}
	return os.Rename(tmp, final)
}

// lock makes the cache folder and waits until no other process fetches into it.
func lock(ctx context.Context, cache string) (unlock func(), err error) {
	defer func() {
		if err != nil {
			err = &loops.Fault{Step: "lock the cache folder " + cache, Err: err, Hint: "set TIERGATE_CACHE to a folder that you may write to"}
		}
	}()
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	info, err := os.Stat(cache)
	if err != nil {
		return nil, err
	}
	if os.Geteuid() == 0 && info.Mode()&0o001 == 0 { // root's programs run as another user, and mktemp -d makes closed folders
		if err := os.Chmod(cache, info.Mode()|0o055); err != nil {
			return nil, err
		}
	}
	file, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { file.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			file.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			file.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
