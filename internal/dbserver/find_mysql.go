package dbserver

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/tiergate/tiergate/internal/loops"
)

// The flavors of server that StartMySQL knows.
const (
	MariaDB     = "mariadb"
	OracleMySQL = "mysql"
)

// mysqlProduct describes a server of a flavor.
func mysqlProduct(flavor string) (product, error) {
	switch flavor {
	case MariaDB:
		return product{
			kind:      "MariaDB",
			variable:  "TIERGATE_MYSQL",
			server:    "mariadbd",
			creator:   []string{"mariadb-install-db", "../bin/mariadb-install-db", "../scripts/mariadb-install-db"},
			installed: []string{"/usr/sbin", "/usr/libexec", "/opt/homebrew/opt/mariadb*/bin", "/usr/local/opt/mariadb*/bin"},
			version:   atLeast(10, 5, true), // the first with names in row events
			downloads: debianPackages("", "mariadb", "mariadb-server-core", "mariadb-client-core"),
			hint: installHint("install MariaDB (apt install mariadb-server, dnf install mariadb-server), or set TIERGATE_MYSQL to the folder of its programs",
				map[string]string{"brew": "brew install mariadb", "apt-get": "apt install mariadb-server", "dnf": "dnf install mariadb-server", "apk": "apk add mariadb"}),
		}, nil
	case OracleMySQL:
		return product{
			kind:      "MySQL",
			variable:  "TIERGATE_MYSQL",
			server:    "mysqld",
			creator:   []string{"mysqld"},
			installed: []string{"/usr/sbin", "/usr/libexec", "/usr/local/mysql/bin", "/opt/homebrew/opt/mysql*/bin", "/usr/local/opt/mysql*/bin"},
			version:   atLeast(8, 0, false),
			downloads: debianPackages("sid", "mysql", "mysql-server-core"), // no stable release has it
			hint: installHint("install MySQL 8.0 or newer, or set TIERGATE_MYSQL to the folder of its programs",
				map[string]string{"brew": "brew install mysql", "apt-get": "install MySQL's own packages (dev.mysql.com), or set TIERGATE_MYSQL to the folder of its programs",
					"dnf": "dnf install mysql-server", "apk": "set TIERGATE_MYSQL to the folder of MySQL's programs"}),
		}, nil
	default:
		return product{}, &loops.Fault{Step: "choose a server", Err: fmt.Errorf("%q is neither %s nor %s", flavor, MariaDB, OracleMySQL),
			Hint: "set TIERGATE_MYSQL_SERVER to one of them, or unset it"}
	}
}

// flavorOr returns a flavor, $TIERGATE_MYSQL_SERVER where it is empty, and MariaDB without either.
func flavorOr(flavor string) string {
	if flavor == "" {
		flavor = os.Getenv("TIERGATE_MYSQL_SERVER")
	}
	if flavor == "" {
		flavor = MariaDB
	}
	return flavor
}

// atLeast reads the answer of a server to --version, such as "mariadbd  Ver 10.11.14-MariaDB-0+deb12u2 for debian-linux-gnu on …"
// or "… Ver 9.7.4 for Linux on …", and refuses older versions and the other flavor.
func atLeast(major, minor int, maria bool) func(answer string) (string, error) {
	return func(answer string) (string, error) {
		match := regexp.MustCompile(`Ver ((\d+)\.(\d+)\S*)`).FindStringSubmatch(answer)
		if match == nil {
			return "", fmt.Errorf("cannot read its version from %q", answer)
		}
		first, err := strconv.Atoi(match[2])
		if err != nil {
			return "", err
		}
		second, err := strconv.Atoi(match[3])
		if err != nil {
			return "", err
		}
		if strings.Contains(answer, "MariaDB") != maria || first < major || first == major && second < minor {
			return "", fmt.Errorf("is version %s", match[1])
		}
		return match[1], nil
	}
}

// debianPackages lists what apt can fetch from a suite; an empty suite is the machine's own.
func debianPackages(suite, name string, packages ...string) func(f *finder) (list []download, refused []error) {
	return func(f *finder) ([]download, []error) {
		if !f.takes("apt") {
			return nil, []error{fmt.Errorf("%s comes from apt only, and TIERGATE_FETCH is %s", f.kind, f.source)}
		}
		a, err := newApt(f.cache)
		if err != nil {
			return nil, []error{err}
		}
		a.suite = suite
		return []download{a.download(name, "usr/sbin", packages...)}, nil
	}
}
