package dbserver

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

//go:embed keeper.sh
var keeperScript string

// keeper is a shell that waits for the end of its input, which comes when this process closes it or
// ends in whatever way, SIGKILL included. It then ends the server and removes its folder.
type keeper struct {
	cmd   *exec.Cmd
	input io.Closer
}

// startKeeper starts one for the server in a folder; the signal, by name, ends the server at once.
func startKeeper(dir, signal string, attr *syscall.SysProcAttr) (*keeper, error) {
	cmd := exec.Command("/bin/sh", "-c", keeperScript, "tiergate-keeper", dir, signal)
	cmd.Dir = os.TempDir()
	cmd.SysProcAttr = attr
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the process that cleans up after the server: %w", err)
	}
	return &keeper{cmd: cmd, input: input}, nil
}

// close returns once the server has ended and its folder is gone.
func (k *keeper) close() {
	k.input.Close()
	k.cmd.Wait()
}
