-- $5 to $7: what was read, which somebody may have changed since. Not a change of the subscription: updated_at stays.
UPDATE relay.subscriptions SET secret = $2, next_secret = $3, previous_secret = $4
 WHERE id = $1 AND secret = $5 AND next_secret IS NOT DISTINCT FROM $6 AND previous_secret IS NOT DISTINCT FROM $7
