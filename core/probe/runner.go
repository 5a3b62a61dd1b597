package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// Runner checks at intervals. Make one with New.
type Runner struct {
	log     *slog.Logger
	asker   asker
	blind   sync.Once     // who listens cannot be seen, and that was said
	changed chan struct{} // holds one: Down says something else
	again   chan struct{} // holds one: Set was called

	mu   sync.Mutex
	want map[string]*job // by what they check
	jobs map[string]*job // that run
}

// job is one check of one target.
type job struct {
	spec    Spec
	target  Target
	service string // whose state it is: Whole or a Key
	cancel  context.CancelFunc
	done    chan struct{}

	// Guarded by Runner.mu.
	known, up bool
	why       string // it is not up
	row       int    // results in a row that say otherwise
}

// New returns one that checks nothing.
func New(log *slog.Logger) *Runner {
	return &Runner{log: log, changed: make(chan struct{}, 1), again: make(chan struct{}, 1), want: map[string]*job{}, jobs: map[string]*job{}}
}

// Set makes other checks and targets hold. What is checked as before goes on. What is
// checked otherwise stays as it was until the new check says something else; what is new
// is down until its first result.
func (r *Runner) Set(specs []Spec, targets []Target) {
	want := jobsFor(specs, targets)
	r.mu.Lock()
	for key, j := range want {
		if old := r.want[key]; old != nil {
			want[key] = old
			continue
		}
		j.inherit(r.want)
	}
	r.want = want
	r.mu.Unlock()
	signal(r.again)
	signal(r.changed)
}

// inherit takes over what was known of the job's service by other checks.
func (j *job) inherit(old map[string]*job) {
	known, up, why := false, true, ""
	for _, o := range old {
		if o.service != j.service || o.target.VIP != j.target.VIP {
			continue
		}
		known = known || o.known
		if o.known && !o.up {
			up, why = false, o.why
		}
	}
	j.known, j.up, j.why = known, up && known, why
}

// jobsFor returns what is to be checked.
func jobsFor(specs []Spec, targets []Target) map[string]*job {
	jobs := map[string]*job{}
	add := func(s Spec, t Target, service string) {
		if s.Kind != None {
			jobs[fmt.Sprintf("%+v %+v", s, t)] = &job{spec: s, target: t, service: service}
		}
	}
	for _, s := range specs {
		if s.whole() {
			add(s, Target{}, Whole)
		}
	}
	for _, t := range targets {
		own := slices.Collect(specsOf(specs, t.Backend, t.Service))
		if len(own) == 0 {
			own = slices.Collect(specsOf(specs, t.Backend, ""))
		}
		if len(own) == 0 {
			own = []Spec{Default()}
		}
		for _, s := range own {
			add(s, t, Key(t.Backend, t.Service))
		}
	}
	return jobs
}

// specsOf returns a backend's checks that name a service, "" for those of any.
func specsOf(specs []Spec, backend, service string) func(func(Spec) bool) {
	return func(yield func(Spec) bool) {
		for _, s := range specs {
			if s.Backend == backend && s.Service == service && !yield(s) {
				return
			}
		}
	}
}

// Changed returns a channel that holds one when Down says something else.
func (r *Runner) Changed() <-chan struct{} { return r.changed }

// Down returns why which services are down, and under Whole why the backend is.
func (r *Runner) Down() map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	down := map[string]string{}
	for _, key := range slices.Sorted(maps.Keys(r.want)) {
		j := r.want[key]
		if _, ok := down[j.service]; ok {
			continue
		}
		switch {
		case !j.known:
			down[j.service] = Unchecked
		case !j.up:
			down[j.service] = j.why
		}
	}
	return down
}

// Run checks until ctx ends, which is no error.
func (r *Runner) Run(ctx context.Context) error {
	defer r.asker.close()
	defer r.stop(func(string) bool { return false })
	for {
		r.mu.Lock()
		want := r.want
		r.mu.Unlock()
		r.stop(func(key string) bool { return want[key] == r.jobs[key] })
		for key, j := range want {
			if r.jobs[key] == nil {
				r.start(ctx, key, j)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.again:
		}
	}
}

// stop ends the jobs that are not kept, and waits for them.
func (r *Runner) stop(keep func(key string) bool) {
	var ended []*job
	for key, j := range r.jobs {
		if !keep(key) {
			j.cancel()
			ended = append(ended, j)
			delete(r.jobs, key)
		}
	}
	for _, j := range ended {
		<-j.done
	}
}

func (r *Runner) start(ctx context.Context, key string, j *job) {
	ctx, j.cancel = context.WithCancel(ctx)
	j.done = make(chan struct{})
	r.jobs[key] = j
	go func() {
		defer close(j.done)
		r.keep(ctx, j)
	}()
}

// keep runs one check until ctx ends. Intervals differ by a tenth, so that checks do
// not fall into step.
func (r *Runner) keep(ctx context.Context, j *job) {
	r.keepWith(ctx, j, func(ctx context.Context) error { return r.check(ctx, j) })
}

func (r *Runner) keepWith(ctx context.Context, j *job, check func(context.Context) error) {
	for {
		once, cancel := context.WithTimeout(ctx, j.spec.Timeout)
		err := check(once)
		if once.Err() != nil && err != nil {
			err = fmt.Errorf("no answer within %s", j.spec.Timeout)
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.note(j, err)
		pause := time.NewTimer(j.spec.Interval - j.spec.Interval/20 + rand.N(j.spec.Interval/10+1))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
		}
	}
}

// note takes a result. The first one counts at once.
func (r *Runner) note(j *job, err error) {
	if errors.Is(err, errCannotTell) {
		err = nil
	}
	why := ""
	if err != nil {
		why = j.what() + ": " + reason(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	up := err == nil
	switch {
	case !j.known:
	case up == j.up:
		j.row = 0
		if j.why == why {
			return
		}
	default:
		need := j.spec.Fall
		if up {
			need = j.spec.Rise
		}
		if j.row++; j.row < need {
			return
		}
	}
	if !j.known || j.up != up {
		r.tell(j, up, why)
	}
	j.known, j.up, j.why, j.row = true, up, why, 0
	signal(r.changed)
}

func (r *Runner) tell(j *job, up bool, why string) {
	log, what := r.log, j.spec.Service
	if j.target.Service != "" {
		what = j.target.Service
	}
	if what == Whole {
		what = "the whole backend"
	}
	if j.target.Backend != "" {
		log = log.With("backend", j.target.Backend)
	}
	switch {
	case !up:
		log.Warn("check failed: no new flows come", "service", what, "why", why)
	case j.known:
		log.Info("check succeeds again", "service", what, "check", j.what())
	}
}

// signal makes a channel that holds one hold one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
