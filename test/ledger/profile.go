package main

import (
	"time"

	"github.com/outbox-relay/relay/test/ledger/history"
)

// profile is what the nemesis does, how often, and under which settings.
type profile struct {
	Name    string
	Weights map[string]int // by name of the action
	Gap     time.Duration  // quiet time between two actions, on average
	Standby bool           // a second relay waits from the beginning
	Env     []string       // more environment of the relays
	Points  []string       // fault points that relays are killed at
}

// The actions of a long run, with their weights.
var everything = map[string]int{
	"kill": 12, "terminate": 5, "freeze": 3, "standby": 4, "crash": 4, "fast-restart": 3, "end-walsender": 6, "end-backends": 4,
	"checkpoint": 3, "open-transaction": 4, "cut-stall": 4, "cut-reset": 5, "outage": 12, "switch": 4, "subscribe": 5, "reload": 4, "alter": 2,
	"drop-slot": 2, "drop-publication": 2, "unpublish": 1, "advance-slot": 1, "take-slots": 3, history.HalfDead: 3,
}

// killPoints are where relays die in a run that has the means.
var killPoints = []string{"after_commit_msg", "before_first_attempt", "after_2xx_before_record", "before_record_commit", "after_record_commit",
	"after_park_commit", "before_status_update", "after_status_update", "in_takeover", "in_load"}

// profiles by name.
func profiles() map[string]profile {
	all := make(map[string]profile)
	for _, p := range []profile{
		{Name: "soak", Weights: everything, Gap: 2 * time.Second, Points: killPoints},
		{Name: "short", Gap: 800 * time.Millisecond, Weights: map[string]int{
			"kill": 60, "terminate": 4, "crash": 4, "fast-restart": 2, "end-walsender": 4, "end-backends": 2, "checkpoint": 2,
			"open-transaction": 4, "cut-reset": 4, "outage": 10, "switch": 3, "subscribe": 3, "reload": 3, "alter": 2, "standby": 2}},
		{Name: "quiet", Gap: time.Second},
		// The defects show under one of these. A relay without one passes them all.
		{Name: "kills", Gap: 700 * time.Millisecond, Weights: map[string]int{"kill": 10, "outage": 8, "checkpoint": 1}},
		{Name: "outages", Gap: 500 * time.Millisecond, Weights: map[string]int{"kill": 1, "outage": 10}},
		{Name: "points", Gap: 700 * time.Millisecond, Weights: map[string]int{"kill": 10, "outage": 8}, Points: killPoints},
		{Name: "between", Gap: 700 * time.Millisecond, Weights: map[string]int{"kill": 10, "outage": 8}, Points: []string{"between_progress"}},
		{Name: "slots", Gap: 2 * time.Second, Weights: map[string]int{"drop-slot": 4, "outage": 1}},
		{Name: "publications", Gap: 3 * time.Second, Weights: map[string]int{"drop-publication": 1}},
		{Name: "incidents", Gap: 3 * time.Second, Weights: map[string]int{"drop-slot": 4, "drop-publication": 3, "unpublish": 2, "advance-slot": 2,
			"kill": 3, "outage": 3, "terminate": 1}},
		{Name: "shortages", Gap: 2 * time.Second, Weights: map[string]int{"take-slots": 5, history.HalfDead: 2, "outage": 2, "kill": 1, "standby": 1}},
		{Name: "freezes", Gap: time.Second, Weights: map[string]int{"freeze": 1}, Standby: true},
	} {
		all[p.Name] = p
	}
	return all
}
