package chaos

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"golang.org/x/sys/unix"

	"github.com/caplance/caplance/e2e/load"
)

// bound is what a scenario may cost. Counts are exact, times are for a machine
// that is not slow.
type bound struct {
	failed, reset, moved, lost int
	gap, stall, recovery       time.Duration
}

// exceeded names what costs more than it may.
func (b bound) exceeded(c load.Cost) (over []string) {
	for _, n := range []struct {
		what    string
		is, may int
	}{{"failed", c.Failed, b.failed}, {"reset", c.Reset, b.reset}, {"moved", c.Moved, b.moved}, {"datagrams lost", c.Lost, b.lost}} {
		if n.is > n.may {
			over = append(over, fmt.Sprintf("%d %s, bound %d", n.is, n.what, n.may))
		}
	}
	for _, d := range []struct {
		what    string
		is, may time.Duration
	}{{"longest gap", c.Gap, b.gap}, {"longest stall", c.Stall, b.stall}, {"recovery", c.Recovery, b.recovery}} {
		if d.is > scaled(d.may) {
			over = append(over, fmt.Sprintf("%s %s, bound %s", d.what, d.is.Round(time.Millisecond), d.may))
		}
	}
	if c.Opened < 20 || c.Asked < 20 {
		over = append(over, fmt.Sprintf("only %d connections and %d datagrams: this proves nothing", c.Opened, c.Asked))
	}
	return over
}

// row is a cost in one line.
func row(c load.Cost) string {
	return fmt.Sprintf("opened %d, failed %d, reset %d, moved %d; datagrams %d, lost %d; gap %s, stall %s, recovery %s", c.Opened, c.Failed, c.Reset, c.Moved,
		c.Asked, c.Lost, round(c.Gap), round(c.Stall), round(c.Recovery))
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }

// kinds are the datapath types, in the order of the table's cells.
var kinds = []string{"tc", "xdp", "userspace"}

// table has the costs by scenario and type.
type table map[string]map[string]load.Cost

func (t table) add(name, kind string, c load.Cost) {
	if t[name] == nil {
		t[name] = map[string]load.Cost{}
	}
	t[name][kind] = c
}

// columns are those of the published table.
var columns = []struct {
	name  string
	cell  func(load.Cost) string
	parse func(cell string, c *load.Cost) error
}{
	{"opened", count(func(c *load.Cost) *int { return &c.Opened }), readCount(func(c *load.Cost) *int { return &c.Opened })},
	{"failed", count(func(c *load.Cost) *int { return &c.Failed }), readCount(func(c *load.Cost) *int { return &c.Failed })},
	{"reset", count(func(c *load.Cost) *int { return &c.Reset }), readCount(func(c *load.Cost) *int { return &c.Reset })},
	{"moved", count(func(c *load.Cost) *int { return &c.Moved }), readCount(func(c *load.Cost) *int { return &c.Moved })},
	{"asked", count(func(c *load.Cost) *int { return &c.Asked }), readCount(func(c *load.Cost) *int { return &c.Asked })},
	{"lost", count(func(c *load.Cost) *int { return &c.Lost }), readCount(func(c *load.Cost) *int { return &c.Lost })},
	{"gap, s", seconds(func(c *load.Cost) *time.Duration { return &c.Gap }), readSeconds(func(c *load.Cost) *time.Duration { return &c.Gap })},
	{"stall, s", seconds(func(c *load.Cost) *time.Duration { return &c.Stall }), readSeconds(func(c *load.Cost) *time.Duration { return &c.Stall })},
	{"recovery, s", seconds(func(c *load.Cost) *time.Duration { return &c.Recovery }), readSeconds(func(c *load.Cost) *time.Duration { return &c.Recovery })},
}

func count(of func(*load.Cost) *int) func(load.Cost) string {
	return func(c load.Cost) string { return fmt.Sprint(*of(&c)) }
}

func readCount(of func(*load.Cost) *int) func(string, *load.Cost) error {
	return func(cell string, c *load.Cost) (err error) { *of(c), err = strconv.Atoi(cell); return err }
}

func seconds(of func(*load.Cost) *time.Duration) func(load.Cost) string {
	return func(c load.Cost) string { return fmt.Sprintf("%.2f", of(&c).Seconds()) }
}

func readSeconds(of func(*load.Cost) *time.Duration) func(string, *load.Cost) error {
	return func(cell string, c *load.Cost) (err error) { *of(c), err = time.ParseDuration(cell + "s"); return err }
}

//go:embed failures.md.tmpl
var page string

// write makes the page of what was measured.
func (t table) write(file string) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	release, _, _ := strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	tmpl, err := template.New("failures").Parse(page)
	if err != nil {
		return err
	}
	return errors.Join(tmpl.Execute(f, map[string]any{
		"Linux": release, "CPUs": runtime.NumCPU(), "Date": time.Now().Format(time.DateOnly), "Table": t.markdown(), "Whys": whys(),
	}), f.Close())
}

// markdown returns the rows, a cell for all types where they do not differ, else one
// for each.
func (t table) markdown() string {
	var b strings.Builder
	b.WriteString("| event | what happens |")
	for _, c := range columns {
		fmt.Fprintf(&b, " %s |", c.name)
	}
	b.WriteString("\n|" + strings.Repeat(" --- |", 2+len(columns)) + "\n")
	for _, s := range scenarios {
		fmt.Fprintf(&b, "| %s | %s |", s.name, s.what)
		for _, column := range columns {
			var cells []string
			for _, kind := range kinds {
				cell := "–"
				if c, ok := t[s.name][kind]; ok {
					cell = column.cell(c)
				}
				cells = append(cells, cell)
			}
			if all := slices.Compact(slices.Clone(cells)); len(all) == 1 {
				cells = all
			}
			fmt.Fprintf(&b, " %s |", strings.Join(cells, " / "))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// whys returns why some rows are not zero.
func whys() string {
	var b strings.Builder
	for _, s := range scenarios {
		if s.why != "" {
			fmt.Fprintf(&b, "- **%s**: %s\n", s.name, s.why)
		}
	}
	return b.String()
}

// read returns the rows of a page, and what is wrong with it.
func read(text string) (t table, wrong []error) {
	t = table{}
	for _, s := range scenarios {
		head := fmt.Sprintf("\n| %s | %s | ", s.name, s.what)
		_, rest, ok := strings.Cut(text, head)
		line, _, _ := strings.Cut(rest, " |\n")
		cells := strings.Split(line, " | ")
		if !ok || len(cells) != len(columns) {
			wrong = append(wrong, fmt.Errorf("no row %q with %d columns", head, len(columns)))
			continue
		}
		for i, kind := range kinds {
			var c load.Cost
			absent := false
			for j, column := range columns {
				cell := cells[j]
				if of := strings.Split(cell, " / "); len(of) == len(kinds) {
					cell = of[i]
				}
				if cell == "–" {
					absent = true
				} else if bad := column.parse(cell, &c); bad != nil {
					wrong = append(wrong, fmt.Errorf("%s, %s: %w", s.name, column.name, bad))
				}
			}
			if !absent {
				t.add(s.name, kind, c)
			}
		}
	}
	return t, wrong
}

// What is published is the table of these scenarios, and no row is worse than its
// bound.
func TestPublishedTable(t *testing.T) {
	data, err := os.ReadFile("../../docs/failures.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	published, wrong := read(text)
	for _, err := range wrong {
		t.Errorf("docs/failures.md: %v: make chaos", err)
	}
	for _, s := range scenarios {
		for kind, c := range published[s.name] {
			if over := s.limit(kind).exceeded(c); len(over) > 0 {
				t.Errorf("%s, %s: published, and over its bound: %s", s.name, kind, strings.Join(over, ", "))
			}
		}
	}
	if !strings.Contains(text, whys()) {
		t.Error("docs/failures.md does not give the reasons of today's scenarios: make chaos")
	}
	_, body, _ := strings.Cut(text, "| event | what happens |")
	if rows := strings.Count(body, "\n| ") - 1; rows != len(scenarios) { // but the line below the head
		t.Errorf("docs/failures.md has %d rows, there are %d scenarios: make chaos", rows, len(scenarios))
	}
}

// A cost that is over its bound is named, and so is a load that was not there.
func TestBounds(t *testing.T) {
	good := load.Cost{Opened: 100, Asked: 100}
	if over := nothing.exceeded(good); over != nil {
		t.Error(over)
	}
	for _, bad := range []load.Cost{
		{Opened: 100, Asked: 100, Failed: 1}, {Opened: 100, Asked: 100, Reset: 1}, {Opened: 100, Asked: 100, Moved: 1}, {Opened: 100, Asked: 100, Lost: 1},
		{Opened: 100, Asked: 100, Gap: scaled(4 * second)}, {Opened: 100, Asked: 100, Stall: scaled(4 * second)}, {Opened: 100, Asked: 100, Recovery: scaled(4 * second)},
		{Opened: 19, Asked: 100}, {Opened: 100, Asked: 19},
	} {
		if over := nothing.exceeded(bad); len(over) != 1 {
			t.Errorf("%+v: %v", bad, over)
		}
	}
}
