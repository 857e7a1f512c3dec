// Package failover has a guest that serves Redis and IMAP on two emulated hosts, takes the hosts away and brings them back.
package failover
