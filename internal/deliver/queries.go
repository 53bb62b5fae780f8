package deliver

import (
	"embed"

	"github.com/outbox-relay/relay/internal/sqlfile"
)

// queryFiles holds every statement that this package runs on relay's tables.
//
//go:embed queries/*.sql
var queryFiles embed.FS

var query = sqlfile.Reader(queryFiles)

var (
	sqlPark            = query("park")
	sqlParkLate        = query("park_late")
	sqlBodies          = query("bodies")
	sqlUpdate          = query("update")
	sqlDelete          = query("delete")
	sqlEnded           = query("ended")
	sqlPromote         = query("promote")
	sqlCancel          = query("cancel")
	sqlRevive          = query("revive")
	sqlKick            = query("kick")
	sqlHurry           = query("hurry")
	sqlDiscard         = query("discard")
	sqlHalted          = query("halted")
	sqlHaltedOf        = query("halted_of")
	sqlLetGo           = query("let_go")
	sqlQuarantine      = query("quarantine")
	sqlAdvance         = query("advance")
	sqlDisable         = query("disable")
	sqlDeadCount       = query("dead_count")
	sqlEndpointTrouble = query("endpoint_trouble")
	sqlNoteChange      = query("note_change")
	sqlFailing         = query("failing")
	sqlHealthy         = query("healthy")
	sqlSequences       = query("sequences")
	sqlSequencesAll    = query("sequences_all")
	sqlSequencesForget = query("sequences_forget")
	sqlFailingAll      = query("failing_all")
	sqlSweepBodies     = query("sweep_bodies")
	sqlLanes           = query("lanes")
	sqlHeal            = query("heal")
	sqlLoad            = query("load")
	sqlDue             = query("due")
	sqlDeliveries      = query("deliveries")
	sqlDeadSince       = query("dead_since")

	sqlReplayProgress = query("replay_progress")
	sqlReplayCancel   = query("replay_cancel")
	sqlReplaysRunning = query("replays_running")
	sqlReplays        = query("replays")
	sqlReplayAsk      = query("replay_ask")
	sqlReplaySame     = query("replay_same")
	sqlReplayStop     = query("replay_stop")
)
