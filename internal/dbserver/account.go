package dbserver

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/tiergate/tiergate/internal/loops"
)

// serverAccount returns how the server's processes are started: in a session of their own, so that Ctrl-C in
// a terminal reaches only the caller, and never as root, which the servers refuse.
func serverAccount() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Setsid: true}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, &loops.Fault{Step: "start a database server as root", Err: err, Hint: "run as an ordinary user, or create the user postgres"}
	}
	uid, err := strconv.ParseUint(account.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", account.Username, err)
	}
	gid, err := strconv.ParseUint(account.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", account.Username, err)
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, nil
}

// makeServerDir makes the server's folder and gives it to the server's user.
func makeServerDir(kind, parent string, attr *syscall.SysProcAttr) (string, error) {
	dir, err := os.MkdirTemp(parent, "tiergate-"+strings.ToLower(kind)+"-")
	if err != nil {
		return "", &loops.Fault{Step: "make a folder for " + kind, Err: err, Hint: "set TMPDIR to a folder that you may write to"}
	}
	if attr.Credential == nil {
		return dir, nil
	}
	for up := filepath.Dir(dir); ; up = filepath.Dir(up) {
		info, err := os.Stat(up)
		if err != nil {
			return dir, err
		}
		if info.Mode()&0o001 == 0 {
			return dir, &loops.Fault{Step: "make a folder for " + kind, Err: fmt.Errorf("%s is closed to its user (started by root, it runs as uid %d)", up, attr.Credential.Uid),
				Hint: "set TMPDIR to a folder open to everybody, such as /tmp, or run as an ordinary user"}
		}
		if up == filepath.Dir(up) {
			break
		}
	}
	return dir, os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid))
}

// writeFor writes a file that only the server's user may read.
func writeFor(attr *syscall.SysProcAttr, name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	if attr.Credential == nil {
		return nil
	}
	return os.Chown(name, int(attr.Credential.Uid), int(attr.Credential.Gid))
}
