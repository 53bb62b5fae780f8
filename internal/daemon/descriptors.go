package daemon

import "syscall"

// ownDescriptors are what the process needs besides the pool of the database and the connections to endpoints: the stream, the
// listener, pages of health and metrics that are being read, the log.
const ownDescriptors = 24

// openFiles is how many file descriptors this process may have. Go raises the soft limit to the hard one at the start.
func openFiles() uint64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 1 << 20 // it is not known: as if there were no limit
	}
	return uint64(limit.Cur)
}

// endpointConnections is how many connections to endpoints may be busy, and as many idle, under a limit of file descriptors.
// Connections that took the last ones would keep the relay from its database and its health page from answering.
func endpointConnections(limit uint64, pool int) int {
	own := uint64(ownDescriptors + pool) // #nosec G115 -- the sum of two positive numbers
	if limit <= own {
		return 1
	}
	return int(max(1, min((limit-own)/2, 1<<20)))
}
