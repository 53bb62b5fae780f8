// Package dev runs everything on one terminal: a throw-away PostgreSQL, the
// relay, a receiver that verifies, and the example modules at work.
package dev
