package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
)

// burnArgument makes this program the load generator.
const burnArgument = "burn"

// startLoad starts a process that keeps every core busy, and returns what ends it. It is a process of its own so that
// reading the tests' output is not slowed down by more than the tests are. It ends when its standard input does, so it
// never outlives this process, however that ends.
func startLoad() (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	cmd := exec.Command(self, burnArgument) // #nosec G204 -- this program itself
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start load: %w", err)
	}
	return func() {
		_ = in.Close()
		_ = cmd.Wait()
	}, nil
}

// burn keeps every core busy until the reader ends.
func burn(until io.Reader) {
	// One more than the cores, so that there is a thread for the reader as soon as there is something to read.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	done := make(chan struct{})
	for range runtime.NumCPU() {
		go func() {
			for n := uint64(0); ; n++ {
				if n%(1<<20) == 0 {
					select {
					case <-done:
						return
					default:
					}
				}
			}
		}()
	}
	_, _ = io.Copy(io.Discard, until)
	close(done)
}
