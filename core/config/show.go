package config

import (
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caplance/caplance/core/protocol"
)

// ShowServer writes a balancer's file as it is understood: every key with its value, and
// where that is from. It is valid TOML and means the same. What does not validate is an
// error, as of ParseServer.
func ShowServer(w io.Writer, path string, data []byte) error {
	if _, err := ParseServer(path, data); err != nil {
		return err
	}
	raw := defaultServer()
	doc, err := Decode(path, data, &raw)
	if err != nil {
		return err
	}
	for i := range raw.Service {
		fill(&raw.Service[i], &defaultService)
		for j := range raw.Service[i].Backends {
			fill(&raw.Service[i].Backends[j], &rawBackend{Mode: raw.Service[i].Mode, Weight: new(1)})
		}
	}
	for i := range raw.Agent {
		fill(&raw.Agent[i], &rawAgent{MaxWeight: new(int64(protocol.MaxWeight)), MaxNames: new(int64(1))})
	}
	return doc.Show(w, &raw)
}

// fill gives the fields that are empty those of another struct.
func fill[T any](into, from *T) {
	a, b := reflect.ValueOf(into).Elem(), reflect.ValueOf(from).Elem()
	for i := range a.NumField() {
		if a.Field(i).IsZero() {
			a.Field(i).Set(b.Field(i))
		}
	}
}

// Show writes a struct that was decoded from the document, with toml tags, as TOML. Behind
// each key stands its line in the file, or that it is the default. What the file leaves
// to others stands as a comment.
func (d *Document) Show(w io.Writer, raw any) error {
	p := printer{doc: d}
	p.table("", "", reflect.ValueOf(raw).Elem())
	_, err := io.WriteString(w, p.b.String())
	return err
}

type printer struct {
	doc *Document
	b   strings.Builder
}

// table writes the keys of a struct, then the tables in it. key is as in Errorf, header
// as in the file.
func (p *printer) table(key, header string, v reflect.Value) {
	type inner struct {
		name string
		v    reflect.Value
	}
	var later []inner
	for f, v := range v.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("toml"), ",")
		if v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		t := v.Type()
		switch {
		case name == "" || name == "-":
		case t.Kind() == reflect.Struct, t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct, t.Kind() == reflect.Map:
			later = append(later, inner{name, v})
		case t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct: // nil: there is none
		case t.Kind() == reflect.Pointer:
			fmt.Fprintf(&p.b, "# %s is not set\n", name) // and follows from something else
		default:
			p.line(name, v.Interface(), join(key, name))
		}
	}
	for _, in := range later {
		p.inner(join(key, in.name), join(header, in.name), in.v)
	}
}

func (p *printer) inner(key, header string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		fmt.Fprintf(&p.b, "\n[%s]\n", header)
		p.table(key, header, v)
	case reflect.Slice:
		for i := range v.Len() {
			fmt.Fprintf(&p.b, "\n[[%s]]\n", header)
			p.table(fmt.Sprintf("%s[%d]", key, i), header, v.Index(i))
		}
	case reflect.Map:
		if m, ok := v.Interface().(map[string]any); ok && len(m) > 0 {
			fmt.Fprintf(&p.b, "\n[%s]\n", header)
			for _, name := range slices.Sorted(maps.Keys(m)) {
				p.line(tomlKey(name), m[name], join(key, name))
			}
		}
	}
}

// line writes a key with its value, and where that is from.
func (p *printer) line(name string, value any, key string) {
	from := "default"
	if p.doc.has(key) {
		from = fmt.Sprintf("line %d", p.doc.Line(key))
	}
	fmt.Fprintf(&p.b, "%-50s # %s\n", name+" = "+tomlValue(reflect.ValueOf(value)), from)
}

// has reports whether the file says something at key.
func (d *Document) has(key string) bool {
	var at any = d.tree
	for _, part := range strings.Split(key, ".") {
		name, index, _ := strings.Cut(part, "[")
		table, _ := at.(map[string]any)
		if at = table[name]; at == nil {
			return false
		}
		if index == "" {
			continue
		}
		list := reflect.ValueOf(at)
		i, err := strconv.Atoi(strings.TrimSuffix(index, "]"))
		if err != nil || list.Kind() != reflect.Slice || i >= list.Len() {
			return false
		}
		at = list.Index(i).Interface()
	}
	return true
}

func tomlKey(name string) string {
	if name != "" && strings.Trim(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") == "" {
		return name
	}
	return tomlString(name)
}

// tomlString quotes a basic string (TOML 1.0).
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, "\\u%04x", r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String() + `"`
}

// tomlValue returns a value as it stands behind a key, tables inline.
func tomlValue(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Interface:
		return tomlValue(v.Elem())
	case reflect.String:
		return tomlString(v.String())
	case reflect.Slice:
		words := make([]string, v.Len())
		for i := range words {
			words[i] = tomlValue(v.Index(i))
		}
		return "[" + strings.Join(words, ", ") + "]"
	case reflect.Map:
		words := []string{}
		for _, k := range v.MapKeys() {
			words = append(words, tomlKey(k.String())+" = "+tomlValue(v.MapIndex(k)))
		}
		slices.Sort(words)
		return "{" + strings.Join(words, ", ") + "}"
	case reflect.Float64:
		if s := fmt.Sprint(v.Float()); strings.ContainsAny(s, ".e") || strings.Trim(s, "+-0123456789") != "" {
			return s
		}
		return fmt.Sprintf("%.1f", v.Float())
	default:
		return fmt.Sprint(v.Interface())
	}
}
