package dbserver

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// oldest and newest are the major versions of PostgreSQL that Tiergate supports.
const (
	oldest = 15
	newest = 18
)

// postgres describes a PostgreSQL of one major version; empty means $TIERGATE_POSTGRES_VERSION, else any.
func postgres(version string) (product, error) {
	if version == "" {
		version = os.Getenv("TIERGATE_POSTGRES_VERSION")
	}
	var majors []string // that will do, best first
	for n := newest; n >= oldest; n-- {
		majors = append(majors, strconv.Itoa(n))
	}
	hint := installHint("install PostgreSQL (apt install postgresql, dnf install postgresql-server), or npm, or set TIERGATE_POSTGRES to the folder of its programs",
		map[string]string{"brew": "brew install postgresql@17", "apt-get": "apt install postgresql", "dnf": "dnf install postgresql-server", "apk": "apk add postgresql"})
	if version != "" {
		if !slices.Contains(majors, version) {
			return product{}, fmt.Errorf("PostgreSQL version %q: expected one of %s", version, strings.Join(majors, ", "))
		}
		majors = []string{version}
		hint = "install PostgreSQL " + version + ", or npm, with which any version is fetched"
	}
	return product{
		kind:     "PostgreSQL",
		variable: "TIERGATE_POSTGRES",
		server:   "postgres",
		creator:  []string{"initdb"},
		installed: []string{
			"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
			"/usr/pgsql-*/bin",          // PostgreSQL's own packages for Red Hat
			"/usr/libexec/postgresql*",  // Alpine
			"/opt/homebrew/opt/postgresql@*/bin",
			"/usr/local/opt/postgresql@*/bin",
			"/Applications/Postgres.app/Contents/Versions/*/bin",
		},
		version: func(answer string) (string, error) {
			major, err := majorOf(answer)
			if err == nil && (major < oldest || version != "" && strconv.Itoa(major) != version) {
				err = fmt.Errorf("is version %d", major)
			}
			return strconv.Itoa(major), err
		},
		downloads: func(f *finder) (list []download, refused []error) {
			for _, s := range []struct {
				name string
				list func(cache string, majors []string) ([]download, error)
			}{
				{"apt", debianPostgres},
				{"npm", embeddedPostgres},
			} {
				if !f.takes(s.name) {
					continue
				}
				found, err := s.list(f.cache, majors)
				if err != nil {
					refused = append(refused, err)
				}
				list = append(list, found...)
			}
			return list, refused
		},
		hint: hint,
	}, nil
}

// majorOf reads the answer of postgres --version, such as "postgres (PostgreSQL) 17.10 (Debian 17.10-1)" or "… 19beta1".
func majorOf(answer string) (int, error) {
	match := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindStringSubmatch(answer)
	if match == nil {
		return 0, fmt.Errorf("cannot read its version from %q", answer)
	}
	return strconv.Atoi(match[1])
}

// debianPostgres lists the servers that the distribution may offer.
func debianPostgres(cache string, majors []string) ([]download, error) {
	a, err := newApt(cache)
	if err != nil {
		return nil, err
	}
	var list []download
	for _, major := range majors {
		list = append(list, a.download(major, "usr/lib/postgresql/"+major+"/bin", "postgresql-"+major, "postgresql-client-"+major))
	}
	return list, nil
}
