// Bento with its own inputs and outputs, and one output more: `counted` drops as `drop` does, but has looked into every record, and ends the
// process when as many have come as BENCH_RECORDS says, with a line of JSON: records, deletes, CPU seconds since the output was connected.
package main

import (
	"context"
	"encoding/json"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"

	"github.com/warpstreamlabs/bento/public/service"

	_ "github.com/warpstreamlabs/bento/public/components/aws"
	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
)

type counted struct {
	wanted        int64
	read, deletes atomic.Int64
	before        float64
}

func cpu() float64 {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1e9
}

func (c *counted) Connect(context.Context) error {
	c.before = cpu()
	return nil
}

func (c *counted) WriteBatch(_ context.Context, batch service.MessageBatch) error {
	var deletes int64
	for _, message := range batch {
		found, err := message.AsStructured()
		if err != nil {
			return err
		}
		if record, ok := found.(map[string]any); ok && record["op"] == "d" {
			deletes++
		}
	}
	c.deletes.Add(deletes)
	if c.read.Add(int64(len(batch))) >= c.wanted {
		_ = json.NewEncoder(os.Stdout).Encode(map[string]any{"read": c.read.Load(), "deletes": c.deletes.Load(), "cpu": cpu() - c.before})
		os.Exit(0)
	}
	return nil
}

func (c *counted) Close(context.Context) error { return nil }

func main() {
	wanted, err := strconv.ParseInt(os.Getenv("BENCH_RECORDS"), 10, 64)
	if err != nil {
		panic(err)
	}
	make := func(*service.ParsedConfig, *service.Resources) (service.BatchOutput, service.BatchPolicy, int, error) {
		return &counted{wanted: wanted}, service.BatchPolicy{}, 64, nil
	}
	if err := service.RegisterBatchOutput("counted", service.NewConfigSpec(), make); err != nil {
		panic(err)
	}
	service.RunCLI(context.Background())
}
