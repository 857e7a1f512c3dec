// Command server is the real etcd server, for the tests of the arbiter. It is a module of its own, so that the program's
// own dependencies don't include a database.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
