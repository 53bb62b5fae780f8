package faultpoint

// Point is a place in the relay at which it can be hurt.
type Point string

// The points, in the order in which an event passes them.
const (
	AfterCommitMessage   Point = "after_commit_msg"        // a whole transaction has come through the stream
	BeforeFirstAttempt   Point = "before_first_attempt"    // an attempt is about to begin
	After2xxBeforeRecord Point = "after_2xx_before_record" // an endpoint took an event, nothing is written
	BeforeRecordCommit   Point = "before_record_commit"    // a batch is about to be sent
	AfterRecordCommit    Point = "after_record_commit"     // a batch is committed, nothing is confirmed
	AfterParkCommit      Point = "after_park_commit"       // the same, of a batch with parked rows
	BeforeStatusUpdate   Point = "before_status_update"    // a position is about to be confirmed to PostgreSQL
	AfterStatusUpdate    Point = "after_status_update"     // it is
	InTakeover           Point = "in_takeover"             // the epoch has begun, nothing is loaded
	InRescueSnapshot     Point = "in_rescue_snapshot"      // a new slot is made, and nothing is noted of it
	InLoad               Point = "in_load"                 // parked deliveries have been read from the table
	BetweenProgress      Point = "between_progress"        // only of the defect progress_before_parked: between its two commits
)

// Points are all points.
func Points() []Point {
	return []Point{AfterCommitMessage, BeforeFirstAttempt, After2xxBeforeRecord, BeforeRecordCommit, AfterRecordCommit, AfterParkCommit,
		BeforeStatusUpdate, AfterStatusUpdate, InTakeover, InRescueSnapshot, InLoad, BetweenProgress}
}

// Defect is a way in which a relay may be wrong.
type Defect string

// The defects. Most of them are in published programs.
const (
	ConfirmOnReceipt      Defect = "confirm_on_receipt"      // a transaction is confirmed when it has come in
	ConfirmKeepalives     Defect = "confirm_keepalives"      // every keepalive's position is confirmed
	ConfirmComputed       Defect = "confirm_computed"        // WAL start plus length of a message is confirmed
	ConfirmBeforeDelivery Defect = "confirm_before_delivery" // an event counts as recorded when it is admitted
	ForgetFailures        Defect = "forget_failures"         // what failed is not parked
	ProgressBeforeParked  Defect = "progress_before_parked"  // progress is committed before the rows that it stands for
	ProgressInMemory      Defect = "progress_in_memory"      // progress is confirmed and not written
	KeepaliveOutOfOrder   Defect = "keepalive_out_of_order"  // a keepalive overtakes what came before it
	FlushZero             Defect = "flush_zero"              // status updates never say what is flushed
	EpochUnchecked        Defect = "epoch_unchecked"         // a leader writes though another has taken over
	OrderForgotten        Defect = "order_forgotten"         // what stands behind a failed event goes ahead of its retry
	SlotRecreated         Defect = "slot_recreated"          // a missing slot is made again without a word
	SignReencoded         Defect = "sign_reencoded"          // the signature is over JSON that was parsed and rendered again
	RowOverlooked         Defect = "row_overlooked"          // one row in 500 is skipped
	OtherTenant           Defect = "other_tenant"            // now and then an event goes to another tenant's subscription
	NoticeIgnored         Defect = "notice_ignored"          // PostgreSQL 18 skips a publication and says so in a notice
	RefusalTaken          Defect = "refusal_taken"           // a refusal counts as delivered
	SettledForgotten      Defect = "settled_forgotten"       // what was recorded above the position is sent again after a restart
	ParkedForgotten       Defect = "parked_forgotten"        // what waits in the table is not looked at after a restart
)

// Defects are all defects.
func Defects() []Defect {
	return []Defect{ConfirmOnReceipt, ConfirmKeepalives, ConfirmComputed, ConfirmBeforeDelivery, ForgetFailures, ProgressBeforeParked,
		ProgressInMemory, KeepaliveOutOfOrder, FlushZero, EpochUnchecked, OrderForgotten, SlotRecreated, SignReencoded, RowOverlooked,
		OtherTenant, NoticeIgnored, RefusalTaken, SettledForgotten, ParkedForgotten}
}
