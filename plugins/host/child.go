package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/tetratelabs/wazero"
	"golang.org/x/sys/unix"
)

// bounds are what a module may take to compile.
type bounds struct {
	cpu  uint64 // s
	data uint64 // bytes that the process may write to
}

// compileBounds are three times what a module takes that is just within those of
// plugins/fuel.
var compileBounds = bounds{cpu: 60, data: 1 << 30}

const (
	reserve = 8 << 30 // bytes of address space besides: Go reserves much more than it uses
	maxCode = 1 << 28 // bytes of machine code

	exitFatal   = 2 // of the Go runtime, when memory is short
	exitInvalid = 3 // the engine refuses the module
)

// RunCompiler is the process that a Compiler starts: it compiles the metered
// module on stdin into a directory, within limits that the kernel enforces, and
// returns the exit code. args are those that the Compiler appends.
func RunCompiler(ctx context.Context, args []string, stdin io.Reader, stderr io.Writer) int {
	err := compileInto(ctx, args, stdin)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, err)
	if errors.Is(err, errEngine) {
		return exitInvalid
	}
	return 1
}

// errEngine is what the engine says of a module.
var errEngine = errors.New("engine")

func compileInto(ctx context.Context, args []string, stdin io.Reader) error {
	if len(args) != 4 {
		return fmt.Errorf("%d arguments: it takes a directory, pages, seconds and bytes", len(args))
	}
	var numbers [3]uint64 // pages, seconds, bytes
	for i := range numbers {
		n, err := strconv.ParseUint(args[1+i], 10, 63)
		if err != nil {
			return fmt.Errorf("argument %d: %w", 2+i, err)
		}
		numbers[i] = n
	}
	if err := limitSelf(bounds{numbers[1], numbers[2]}); err != nil {
		return err
	}
	metered, err := io.ReadAll(stdin)
	if err != nil {
		return fmt.Errorf("module: %w", err)
	}
	cache, err := wazero.NewCompilationCacheWithDir(args[0])
	if err != nil {
		return err
	}
	engine := wazero.NewRuntimeWithConfig(ctx, engineConfig(uint32(numbers[0])).WithCompilationCache(cache))
	if _, err := engine.CompileModule(ctx, metered); err != nil {
		return fmt.Errorf("%w: %w", errEngine, err)
	}
	return nil // the process ends here: nothing to close
}

// limitSelf bounds this process, and lets all others go first.
func limitSelf(b bounds) error {
	for _, l := range []struct {
		resource int
		most     uint64
	}{
		{unix.RLIMIT_CPU, b.cpu}, {unix.RLIMIT_DATA, b.data}, {unix.RLIMIT_AS, b.data + reserve}, {unix.RLIMIT_FSIZE, maxCode}, {unix.RLIMIT_CORE, 0},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.most, Max: l.most}); err != nil {
			return fmt.Errorf("limit %d of the process: %w", l.resource, err)
		}
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil {
		return fmt.Errorf("priority of the process: %w", err)
	}
	return nil
}
