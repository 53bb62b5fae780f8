-- $7 to $11: what was read, which somebody may have changed since. Not a change of the subscription: updated_at stays.
UPDATE relay.subscriptions SET secret = $2, next_secret = $3, previous_secret = $4, headers = $5, client_certificate = $6
 WHERE id = $1 AND secret = $7 AND next_secret IS NOT DISTINCT FROM $8 AND previous_secret IS NOT DISTINCT FROM $9
   AND headers IS NOT DISTINCT FROM $10 AND client_certificate IS NOT DISTINCT FROM $11
