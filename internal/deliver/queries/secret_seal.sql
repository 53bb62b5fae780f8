-- $6 to $9: what was read, which somebody may have changed since. Not a change of the subscription: updated_at stays.
UPDATE relay.subscriptions SET secret = $2, next_secret = $3, previous_secret = $4, headers = $5
 WHERE id = $1 AND secret = $6 AND next_secret IS NOT DISTINCT FROM $7 AND previous_secret IS NOT DISTINCT FROM $8
   AND headers IS NOT DISTINCT FROM $9
