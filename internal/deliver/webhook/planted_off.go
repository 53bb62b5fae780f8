//go:build !faultpoints

package webhook

func reencode(body []byte) []byte { return body }
