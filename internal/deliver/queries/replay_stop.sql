UPDATE relay.replays SET cancel = true WHERE id = $1 AND state = 'RUNNING'
