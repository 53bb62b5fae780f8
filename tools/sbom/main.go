// Command sbom writes what a binary of ours is built of as a CycloneDX document (https://cyclonedx.org/docs/1.6/json/) to standard
// output.
//
//	go -C tools run ./sbom -version v1.2.3 ../bin/relay
//
// It reads what the linker wrote into the binary, not go.mod, so that it names what is there: a module that only tests need is
// not. The same binary gives the same document.
package main

import (
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

func main() {
	version := flag.String("version", "", "version of the binary, which the linker does not know")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "sbom: name one binary")
		os.Exit(2)
	}
	if err := write(os.Stdout, flag.Arg(0), *version); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// document is the part of a CycloneDX document that is needed here.
type document struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"` // of this document
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"` // what the document is about
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl"` // https://github.com/package-url/purl-spec
	Properties []property `json:"properties,omitempty"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// write writes the document of a binary. The binary may be of another version than it says by itself.
func write(to io.Writer, binary, version string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	if len(info.Deps) == 0 {
		return errors.New(binary + " names no modules; was it built with Go modules?")
	}
	if version == "" {
		version = info.Main.Version
	}
	about := of(info.Main.Path, version)
	about.Type = "application"
	for _, s := range info.Settings { // as it was built: without cgo, for which system
		switch s.Key {
		case "CGO_ENABLED", "GOOS", "GOARCH", "-trimpath", "-tags":
			about.Properties = append(about.Properties, property{"go:build:" + s.Key, s.Value})
		}
	}
	doc := document{Format: "CycloneDX", SpecVersion: "1.6", Version: 1, Metadata: metadata{about}}
	all := dependency{Ref: about.Ref}
	add := func(c component) {
		doc.Components = append(doc.Components, c)
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	add(of("std", strings.TrimPrefix(info.GoVersion, "go")))
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := of(m.Path, m.Version)
		if m.Sum != "" {
			c.Properties = []property{{"go:sum", m.Sum}}
		}
		add(c)
	}
	doc.Dependencies = []dependency{all}
	out := json.NewEncoder(to)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(doc)
}

// of describes a module of a version.
func of(path, version string) component {
	purl := "pkg:golang/" + path
	if version != "" {
		purl += "@" + strings.ReplaceAll(version, "+", "%2B")
	}
	return component{Type: "library", Ref: purl, Name: path, Version: version, PURL: purl}
}
