package history

import "errors"

// Names of the files of a report. Relay logs lie beside them, as relay-a.log and so on.
const (
	FileRun           = "run.jsonl"
	FileTransactions  = "transactions.jsonl"
	FileRows          = "rows.jsonl"
	FileSubscriptions = "subscriptions.jsonl"
	FileArrivals      = "arrivals.jsonl"
	FileAnswered      = "answered.jsonl"
	FileActions       = "actions.jsonl"
	FileExits         = "exits.jsonl"
	FileSamples       = "samples.jsonl"
	FileTransitions   = "transitions.jsonl"
	FileDeliveries    = "deliveries.jsonl"
	FileQuarantine    = "quarantine.jsonl"
	FileEnd           = "end.jsonl"
)

// History is all of a run.
type History struct {
	Run           Run
	Transactions  []Transaction
	Rows          []Row
	Subscriptions []Subscription
	Arrivals      []Arrival // in the order of their numbers
	Answered      []Answered
	Actions       []Action
	Exits         []Exit
	Samples       []Sample
	Transitions   []Transition
	Deliveries    []Delivery
	Quarantine    []Quarantined
	End           End
}

// Load reads a report.
func Load(dir string) (*History, error) {
	h := &History{}
	var errs []error
	load(&errs, dir, FileTransactions, &h.Transactions)
	load(&errs, dir, FileRows, &h.Rows)
	load(&errs, dir, FileSubscriptions, &h.Subscriptions)
	load(&errs, dir, FileArrivals, &h.Arrivals)
	load(&errs, dir, FileAnswered, &h.Answered)
	load(&errs, dir, FileActions, &h.Actions)
	load(&errs, dir, FileExits, &h.Exits)
	load(&errs, dir, FileSamples, &h.Samples)
	load(&errs, dir, FileTransitions, &h.Transitions)
	load(&errs, dir, FileDeliveries, &h.Deliveries)
	load(&errs, dir, FileQuarantine, &h.Quarantine)
	var runs []Run
	var ends []End
	load(&errs, dir, FileRun, &runs)
	load(&errs, dir, FileEnd, &ends)
	if len(runs) != 1 || len(ends) != 1 {
		errs = append(errs, errors.New("no whole report: "+dir+" lacks "+FileRun+" or "+FileEnd))
	} else {
		h.Run, h.End = runs[0], ends[0]
	}
	return h, errors.Join(errs...)
}

func load[T any](errs *[]error, dir, name string, to *[]T) {
	var err error
	if *to, err = read[T](dir, name); err != nil {
		*errs = append(*errs, err)
	}
}
