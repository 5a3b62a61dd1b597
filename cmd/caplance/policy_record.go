package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/caplance/caplance/core/control"
	"github.com/caplance/caplance/core/plain"
	"github.com/caplance/caplance/plugins/host"
	"github.com/caplance/caplance/plugins/recording"
	"github.com/caplance/caplance/plugins/workbench/replay"
)

// recordOptions are the flags of record.
type recordOptions struct {
	file, server string
	picks        int
	json         bool
}

var recordTool = tool{
	name: "record", takes: "SERVICE", operands: 1, writes: true,
	summary: "take down the flows and picks of a live service",
	example: "  caplance policy record -o web.rec -n 100000 web\n  caplance policy record -o web.rec -n 0 web   # until Ctrl-C\n",
	flags: func(inv *invocation) {
		o := &recordOptions{}
		inv.options = o
		inv.fs.StringVar(&o.file, "o", "", "`FILE` to write; it must not be there yet")
		inv.fs.IntVar(&o.picks, "n", 10_000, "how many picks; 0 goes on until Ctrl-C")
		inv.fs.StringVar(&o.server, "server", "/var/run/caplance-server.sock", "`SOCKET` of the balancer")
		inv.fs.BoolVar(&o.json, "json", false, "print what was recorded as JSON")
	},
	run: func(ctx context.Context, inv *invocation) error {
		o := inv.options.(*recordOptions)
		switch {
		case o.file == "":
			return inv.usage(errors.New("-o FILE is missing"))
		case o.picks < 0:
			return inv.usage(fmt.Errorf("-n %d is negative", o.picks))
		case o.json:
			inv.output = "json"
		}
		f, err := os.OpenFile(o.file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) // clients' addresses are in it
		if err != nil {
			return fmt.Errorf("recording: %w", err)
		}
		err = control.Dial(o.server).Record(ctx, inv.operands[0], o.picks, f)
		if err := errors.Join(err, f.Close()); err != nil {
			return errors.Join(err, os.Remove(o.file))
		}
		taken, err := lookInto(o.file)
		if err != nil {
			return err
		}
		return inv.show(taken)
	},
}

// recorded summarizes a file.
type recorded struct {
	File    string `json:"file"`
	Service string `json:"service"`
	Policy  string `json:"policy"`
	Flows   uint64 `json:"flows"`
	Pools   int    `json:"pools"`
	Lost    uint64 `json:"lost"`
	Bytes   int64  `json:"bytes"`
}

// lookInto reads a recording from end to end.
func lookInto(file string) (*recorded, error) {
	in, done, err := openRecording(file)
	if err != nil {
		return nil, err
	}
	defer done()
	var e recording.Entry
	for err == nil {
		err = in.Next(&e)
	}
	if !errors.Is(err, io.EOF) {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	return &recorded{file, in.Header.Service, in.Header.Policy, in.Flows, len(in.Pools), in.Lost, info.Size()}, nil
}

func (r *recorded) Print(w io.Writer) error {
	fmt.Fprintf(w, "%d flows of %s, placed by %s, in %d pools: %d bytes in %s\n", r.Flows, plain.Name(r.Service), plain.Name(r.Policy), r.Pools, r.Bytes, plain.Name(r.File))
	if r.Lost > 0 {
		fmt.Fprintf(w, "%d entries were lost: more came than could be recorded\n", r.Lost)
	}
	_, err := fmt.Fprintf(w, "Ask another policy about them: caplance policy replay %s POLICY\n", r.File)
	return err
}

func openRecording(file string) (in *recording.Reader, done func(), err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, fmt.Errorf("recording: %w", err)
	}
	if in, err = recording.NewReader(bufio.NewReader(f)); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return in, func() { f.Close() }, nil
}

var replayTool = tool{
	name: "replay", takes: "FILE POLICY", operands: 2,
	summary: "ask a policy about recorded flows: what would differ",
	example: "  caplance policy replay web.rec mine.wasm\n  caplance policy replay -o json web.rec least-connections\n",
	flags: func(inv *invocation) {
		inv.options = inv.fs.String("config", "", "policy_config as `JSON`")
	},
	run: func(ctx context.Context, inv *invocation) error {
		var opt replay.Options
		if text := *inv.options.(*string); text != "" {
			if opt.Config = []byte(text); !json.Valid(opt.Config) {
				return inv.usage(errors.New("-config is not JSON"))
			}
		}
		in, done, err := openRecording(inv.operands[0])
		if err != nil {
			return err
		}
		defer done()
		rt, err := host.NewRuntime(ctx)
		if err != nil {
			return err
		}
		defer rt.Close(ctx)
		policy, err := load(ctx, rt, inv.operands[1])
		if err != nil {
			return err
		}
		result, err := replay.Run(ctx, policy, in, opt)
		if err != nil {
			return fmt.Errorf("policy %q: %w", inv.operands[1], err)
		}
		return inv.show(result)
	},
}
