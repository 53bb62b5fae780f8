// Package config reads YAML, environment and flags into settings that know their line.
//
// A value on the command line wins over the environment, the environment over the file, the file over
// the default. The file is read strictly: an unknown key, a key given twice, a value of the wrong kind or
// outside its range is refused, and all faults are reported at once, each with file, line, key path, what
// was expected and the nearest thing that would have been right. Nothing that this package prints, errors
// included, shows a password.
//
// The key deliver.retry.schedule is RELAY_DELIVER_RETRY_SCHEDULE in the environment and
// --set deliver.retry.schedule=... on the command line; lists are separated by commas there. An empty
// variable counts as not set. A secret x may be given as x_file, the name of a file that holds it.
//
// A Config is not changed after Load returned it; a reload loads a new one and compares (Changed).
package config
