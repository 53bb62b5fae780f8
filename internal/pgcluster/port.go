package pgcluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports are taken from below the range for outgoing connections (from 32768 on Linux, 49152 on macOS), see the package
// comment.
const (
	firstPort = 20000
	lastPort  = 32000
)

// freePort is a port that nobody listened on a moment ago. Another process can take it before the server does.
func freePort() (int, error) {
	for range 200 {
		port := firstPort + rand.IntN(lastPort-firstPort) // #nosec G404 -- a port is no secret
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		if err := l.Close(); err != nil {
			return 0, fmt.Errorf("close port %d: %w", port, err)
		}
		return port, nil
	}
	return 0, errors.New("find a free port on 127.0.0.1: 200 tries between 20000 and 32000 were taken")
}
