// Package output keeps what tests let others write, and fails the test that finds a secret in it.
//
// A secret is a canary: what a test gives to a subscription, a header, a token or a connection is made known by Secret, and
// what subscriptions hold in the database at the end of a test is known by itself (CheckDatabase). Then nothing that the test
// kept may hold it, as it is or as base64, hexadecimal digits or escaped for a URL: not what a daemon or a command wrote
// (Buffer), not an answer (Check), not a row of the history (CheckDatabase).
//
// A test knows its own secrets and those of the whole binary, which were made known with nil; so tests beside each other do
// not disturb each other. Subtests are one with their test.
package output
