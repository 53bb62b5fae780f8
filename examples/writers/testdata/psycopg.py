# A stand-in for psycopg: writes each statement to standard output as a line of JSON and reads the result from standard
# input. The test at the other end runs it on a real server.
import contextlib, json, sys, types


def _run(sql, args=()):
    print(json.dumps({"sql": sql, "args": list(args)}), flush=True)
    result = json.loads(sys.stdin.readline())
    if result["error"]:
        raise RuntimeError(result["error"])
    return types.SimpleNamespace(rowcount=result["rows"])


class _Connection:
    execute = staticmethod(_run)

    @contextlib.contextmanager
    def transaction(self):
        _run("BEGIN")
        try:
            yield
        except BaseException:
            _run("ROLLBACK")
            raise
        _run("COMMIT")


@contextlib.contextmanager
def connect(url):
    yield _Connection()
