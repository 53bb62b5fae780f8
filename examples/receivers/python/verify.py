import base64, hashlib, hmac, time


def verify(secret: str, headers, body: bytes, tolerance=300) -> bool:
    """Checks a Standard Webhooks signature. headers: lower-case names; body: the bytes as they came."""
    msg_id, at, signatures = (headers.get("webhook-" + name, "") for name in ("id", "timestamp", "signature"))
    key = base64.b64decode(secret[6:]) if secret.startswith("whsec_") else secret.encode()
    mac = hmac.new(key, f"{msg_id}.{at}.".encode() + body, hashlib.sha256).digest()
    fresh = len(key) > 0 and at.isdecimal() and len(at) < 12 and abs(time.time() - int(at)) <= tolerance
    return fresh and any(hmac.compare_digest(b"v1," + base64.b64encode(mac), s.encode()) for s in signatures.split())
