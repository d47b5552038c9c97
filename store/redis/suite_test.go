package redis_test

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			code = 1
		}
	}
	os.Exit(code)
}

// open opens a DB that shares no key with another test's.
func open(t testing.TB, address string, more ...func(*redis.Options)) *redis.DB {
	t.Helper()
	a, err := redis.ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	o := redis.Options{Address: a, Prefix: "t" + rand.Text()}
	for _, f := range more {
		f(&o)
	}
	db, err := redis.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// patient waits for a turn as long as it takes: hundreds ask at once in the suite, on a machine that has other things to do.
func patient(o *redis.Options) { o.Timeout = 20 * time.Second }

// suite runs what every backend has to pass.
func suite(t *testing.T, address string) {
	storetest.Run(t, storetest.Config{
		RealTime: true, Resolution: 50 * time.Millisecond,
		Open: func(t *testing.T) store.Backend { return open(t, address, patient) },
	})
}

func TestSuite(t *testing.T) { suite(t, redistest.Start(t, redistest.Options{}).URL()) }

func TestSuiteOnCluster(t *testing.T) {
	suite(t, "redis+cluster://"+strings.Join(redistest.StartCluster(t).Addrs(), ","))
}

func TestSuiteWithSentinels(t *testing.T) {
	s := redistest.StartSentinel(t)
	suite(t, "redis+sentinel://"+strings.Join(s.SentinelAddrs(), ",")+"/"+s.MasterName())
}
