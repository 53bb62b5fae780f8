package sqlfile

import "io/fs"

// Reader returns what reads the statement in queries/NAME.sql of a package's embedded files. It panics for a name without a
// file, which a package finds out when it is initialized.
func Reader(files fs.FS) func(name string) string {
	return func(name string) string {
		b, err := fs.ReadFile(files, "queries/"+name+".sql")
		if err != nil {
			panic(err)
		}
		return string(b)
	}
}
