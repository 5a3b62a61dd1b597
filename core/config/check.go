package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
)

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()

// check compares the tree of a file with the struct it is to be decoded into.
// The TOML library would do it too, but it ignores case, stops at the first
// finding and knows the line only of the last table of an array.
func (d *Document) check(tree map[string]any, into any) error {
	c := checker{doc: d}
	c.table("", tree, reflect.TypeOf(into).Elem())
	return errors.Join(c.errs...)
}

type checker struct {
	doc  *Document
	errs []error
}

func (c *checker) table(path string, tree map[string]any, t reflect.Type) {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("toml"), ","); name != "" && name != "-" {
			fields[name] = f.Type
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		key := join(path, name)
		if ft, ok := fields[name]; ok {
			c.value(key, tree[name], ft)
			continue
		}
		where := "here"
		if path != "" {
			where = "in [" + strings.Trim(path, "0123456789[]") + "]"
		}
		c.errs = append(c.errs, c.doc.Errorf(key, "unknown key (allowed %s: %s)",
			where, strings.Join(slices.Sorted(maps.Keys(fields)), ", ")))
	}
}

func (c *checker) value(key string, v any, t reflect.Type) {
	if reflect.PointerTo(t).Implements(textUnmarshaler) {
		t = reflect.TypeFor[string]()
	}
	switch t.Kind() {
	case reflect.Pointer:
		c.value(key, v, t.Elem())
	case reflect.Struct:
		if tree, ok := v.(map[string]any); ok {
			c.table(key, tree, t)
			return
		}
		c.mismatch(key, v, "a table")
	case reflect.Slice:
		switch list := reflect.ValueOf(v); list.Kind() {
		case reflect.Slice:
			for i := range list.Len() {
				c.value(fmt.Sprintf("%s[%d]", key, i), list.Index(i).Interface(), t.Elem())
			}
		default:
			c.mismatch(key, v, "a list")
		}
	default:
		c.scalar(key, v, t)
	}
}

func (c *checker) scalar(key string, v any, t reflect.Type) {
	switch kind := t.Kind(); {
	case kind == reflect.String:
		if _, ok := v.(string); !ok {
			c.mismatch(key, v, "a string")
		}
	case kind == reflect.Bool:
		if _, ok := v.(bool); !ok {
			c.mismatch(key, v, "true or false")
		}
	case reflect.Int <= kind && kind <= reflect.Uint64:
		least, most := bounds(t)
		if n, ok := v.(int64); !ok || n < least || n > most {
			c.mismatch(key, v, fmt.Sprintf("an integer from %d to %d", least, most))
		}
	} // maps and interfaces hold anything
}

func bounds(t reflect.Type) (least, most int64) {
	if t.Kind() >= reflect.Uint {
		return 0, math.MaxInt64 >> max(0, 63-t.Bits())
	}
	return math.MinInt64 >> (64 - t.Bits()), math.MaxInt64 >> (64 - t.Bits())
}

func (c *checker) mismatch(key string, v any, want string) {
	shown := fmt.Sprintf("%#v", v)
	switch v.(type) {
	case map[string]any:
		shown = "a table"
	case []any, []map[string]any:
		shown = "a list"
	}
	c.errs = append(c.errs, c.doc.Errorf(key, "%s must be %s", shown, want))
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
