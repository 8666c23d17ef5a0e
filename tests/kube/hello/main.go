// hello is the program behind every hello-world of the lab. It answers
//
//   - HTTP on 8080, every path: three lines, "Hello Kubernetes!", "pod: NAME" and "client: ADDRESS:PORT",
//     where the client is the peer of the connection as this pod sees it;
//   - TCP on 8081: the connection stays open, each line that comes in is answered by "NAME LINE";
//   - UDP on 8082: each datagram is answered by "NAME ADDRESS:PORT DATAGRAM".
//
// NAME is the host name, which in a pod is the pod's name. On SIGTERM it ends at once, or after HELLO_LINGER
// (a Go duration such as "5s") in which it goes on serving, as a well-behaved terminating endpoint does. Called as
// "hello name" it prints NAME and ends, since its image holds nothing else that kubectl exec could run.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	name, err := os.Hostname()
	if err != nil {
		log.Fatalf("host name: %v", err)
	}
	if len(os.Args) == 2 && os.Args[1] == "name" {
		fmt.Println(name)
		return
	}
	failed := make(chan error, 3)
	go func() { failed <- serveHTTP(name) }()
	go func() { failed <- serveTCP(name) }()
	go func() { failed <- serveUDP(name) }()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-failed:
		log.Fatal(err)
	case <-stop:
		if linger, err := time.ParseDuration(os.Getenv("HELLO_LINGER")); err == nil {
			time.Sleep(linger)
		}
	}
}

func serveHTTP(name string) error {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "Hello Kubernetes!\npod: %s\nclient: %s\n", name, r.RemoteAddr)
	})
	return http.ListenAndServe(":8080", nil)
}

func serveTCP(name string) error {
	listener, err := net.Listen("tcp", ":8081")
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if _, err := fmt.Fprintf(conn, "%s %s\n", name, lines.Text()); err != nil {
					return
				}
			}
		}()
	}
}

func serveUDP(name string) error {
	conn, err := net.ListenPacket("udp", ":8082")
	if err != nil {
		return err
	}
	buffer := make([]byte, 64*1024)
	for {
		n, client, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(fmt.Appendf(nil, "%s %s %s", name, client, buffer[:n]), client); err != nil {
			log.Printf("answer to %s: %v", client, err)
		}
	}
}
