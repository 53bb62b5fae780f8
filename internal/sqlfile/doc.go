// Package sqlfile reads the SQL statements that a package embeds, a file each.
package sqlfile
