package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/caplance/caplance/core/plain"
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
	fields := map[string]reflect.StructField{}
	for f := range t.Fields() {
		if name, _, _ := strings.Cut(f.Tag.Get("toml"), ","); name != "" && name != "-" {
			fields[name] = f
		}
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		key := join(path, name)
		if f, ok := fields[name]; ok {
			if n, ok := tree[name].(int64); ok && f.Tag.Get("is") == "duration" {
				c.errs = append(c.errs, c.doc.Errorf(key, "%d has no unit: write %s = \"%ds\"", n, name, n))
				continue
			}
			c.value(key, tree[name], f.Type)
			continue
		}
		where := "here"
		if path != "" {
			where = "in [" + written(path) + "]"
		}
		allowed := slices.Sorted(maps.Keys(fields))
		c.errs = append(c.errs, c.doc.Errorf(key, "unknown key%s (allowed %s: %s)", plain.DidYouMean(name, allowed), where, strings.Join(allowed, ", ")))
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
		case reflect.Map:
			if t.Elem().Kind() == reflect.Struct {
				c.errs = append(c.errs, c.doc.Errorf(key, "write [[%s]]: there may be several", written(key)))
				return
			}
			c.mismatch(key, v, "a list")
		default:
			c.errs = append(c.errs, c.doc.Errorf(key, "%#v must be a list: write %s = [%#v]", v, last(key), v))
		}
	default:
		c.scalar(key, v, t)
	}
}

func (c *checker) scalar(key string, v any, t reflect.Type) {
	if list, ok := v.([]any); ok && len(list) == 1 && t.Kind() != reflect.Map && t.Kind() != reflect.Interface {
		c.errs = append(c.errs, c.doc.Errorf(key, "one value is meant, not a list: write %s = %#v", last(key), list[0]))
		return
	}
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
		want := fmt.Sprintf("an integer from %d to %d", least, most)
		if most > math.MaxUint32 { // the key's own range is less, and its validator says which
			want = "an integer"
		}
		if n, ok := v.(int64); !ok || n < least || n > most {
			c.mismatch(key, v, want)
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

// last returns the name of a key, as it is written in its table.
func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// indices are those of a key's tables.
var indices = regexp.MustCompile(`\[[0-9]+\]`)

// written returns a key as a table's header has it.
func written(key string) string { return indices.ReplaceAllString(key, "") }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
