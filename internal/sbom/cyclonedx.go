package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// document is the bill of materials in JSON, of version 1.6, which more tools read than the newest. The same binary gives the same bytes: there
// is no serial number, and a time only where the epoch says it. The version may be empty.
func document(b *binary, version, epoch string) ([]byte, error) {
	self := component(cdx.ComponentTypeApplication, b.main, version, b.license)
	self.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: b.sha256}}
	self.Properties = &[]cdx.Property{{Name: "tokenbroker:platform", Value: b.platform}}

	refs := map[string]string{}
	var components []cdx.Component
	for _, p := range b.parts {
		c := component(cdx.ComponentTypeLibrary, p.path, p.version, p.license)
		if p.sum != "" {
			// Not under hashes: h1 is a hash of a list of files, and whoever hashed the module's archive would get another.
			c.Properties = &[]cdx.Property{{Name: "tokenbroker:go.sum", Value: p.sum}}
		}
		refs[p.path] = c.BOMRef
		components = append(components, c)
	}
	depends := func(ref string, uses []string) cdx.Dependency {
		on := []string{}
		for _, u := range uses {
			on = append(on, refs[u])
		}
		return cdx.Dependency{Ref: ref, Dependencies: &on}
	}
	graph := []cdx.Dependency{depends(self.BOMRef, b.uses)}
	for _, p := range b.parts {
		graph = append(graph, depends(refs[p.path], p.uses))
	}

	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &self}
	bom.Components, bom.Dependencies = &components, &graph
	if epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
		}
		bom.Metadata.Timestamp = time.Unix(seconds, 0).UTC().Format(time.RFC3339)
	}
	var out bytes.Buffer
	if err := cdx.NewBOMEncoder(&out, cdx.BOMFileFormatJSON).SetPretty(true).SetEscapeHTML(false).EncodeVersion(bom, cdx.SpecVersion1_6); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// component names a module by its package URL, which is in lower case for Go.
func component(kind cdx.ComponentType, path, version, license string) cdx.Component {
	purl := "pkg:golang/" + strings.ToLower(path)
	if version != "" {
		purl += "@" + strings.ReplaceAll(version, "+", "%2B")
	}
	choice := cdx.LicenseChoice{License: &cdx.License{ID: license}}
	if strings.Contains(license, " ") {
		choice = cdx.LicenseChoice{Expression: license}
	}
	return cdx.Component{BOMRef: purl, Type: kind, Name: path, Version: version, PackageURL: purl, Licenses: &cdx.Licenses{choice}}
}
