// Package pgcluster runs a throw-away PostgreSQL for `relay dev`, tests and benchmarks.
//
// A Cluster is one server of its own: a directory under the temporary folder, a free port on 127.0.0.1, a Unix
// socket in that directory, wal_level=logical, and one superuser, postgres, who needs no password. Everybody who
// can reach 127.0.0.1 is that superuser, so a Cluster holds nothing of value.
//
// What callers may rely on:
//
//   - The postmaster is a direct child of this process in a session of its own: Ctrl-C in the terminal does not
//     reach it, only Stop and Close (or the owner's death) end it.
//   - Stop, Start and Restart keep port and data, so clients see the same server go away and come back.
//   - PostgreSQL refuses to run as root. Under root the server runs as user postgres, else as nobody, and the
//     directory belongs to that user.
//   - A Cluster does not outlive its owner for long. On Linux the kernel tells the postmaster to quit when the
//     owner dies, however it dies. Everywhere the next Start of any owner stops and removes what dead owners
//     left behind.
//   - Close is complete: when it returns, the postmaster is reaped and the directory is gone.
//
// The port lies below the range from which the kernel takes ports for outgoing connections. While the server is
// stopped, a client that keeps dialling a port of that range can be connected to itself, and any other process
// can be given the port.
package pgcluster
