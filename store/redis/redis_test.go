package redis

import "testing"

// TestWhereARedisSendsToIsDialledAsItSays: it names an IPv6 host without brackets.
func TestWhereARedisSendsToIsDialledAsItSays(t *testing.T) {
	a, err := ParseAddress("rediss+cluster://u:p@a:1")
	if err != nil {
		t.Fatal(err)
	}
	for said, want := range map[string]string{
		"10.0.0.7:6380": "10.0.0.7:6380", "redis-1.redis:6380": "redis-1.redis:6380", "fd00::7:6380": "[fd00::7]:6380", "[fd00::7]:6380": "[fd00::7]:6380",
	} {
		if o := (Options{Address: a}).at(said); o.Addr != want || o.Username != "u" || o.Password != "p" || o.TLSConfig == nil || o.DB != 0 {
			t.Errorf("%s: got %s, by %s, by TLS: %v", said, o.Addr, o.Username, o.TLSConfig != nil)
		}
	}
}
