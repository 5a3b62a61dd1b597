package workers

import "github.com/caplance/caplance/core/datapath"

// Tell hands the workers what backends say of their connections. One that is too
// busy to listen goes without: what it missed is asked about later.
func (ws *Set) Tell(words []datapath.Word) {
	list := ws.each()
	byWorker := make([][]datapath.Word, len(list))
	for _, d := range words {
		if ws.moving.Load() { // its flow may be where another owns it
			for i := range byWorker {
				byWorker[i] = append(byWorker[i], d)
			}
			continue
		}
		if i := ws.FlowQueue(&d.Key); i < len(byWorker) {
			byWorker[i] = append(byWorker[i], d)
		}
	}
	for i, w := range list {
		if w != nil && len(byWorker[i]) > 0 {
			words := byWorker[i]
			w.Path.Do(func() { w.Path.Told(words) })
		}
	}
}
