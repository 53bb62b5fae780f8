// Package guard holds tests about the repository itself: imports, package comments and documents.
package guard
