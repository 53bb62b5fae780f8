# Reads a JSON array of {secret, headers, body} (body in base64), writes what verify says to each.
import base64, json, sys

sys.path.insert(0, "python")
sys.dont_write_bytecode = True
from verify import verify

json.dump([verify(c["secret"], c["headers"], base64.b64decode(c["body"])) for c in json.load(sys.stdin)], sys.stdout)
