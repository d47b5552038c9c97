// Package settings is what an operator may say about a broker: by flag, by environment variable and in a file. It decides what a
// setting is called, what it is by default and whether it can be right, and says where in the file it stands if it cannot; and what lies
// where in the data directory. It knows nothing of what is done with a setting.
package settings
