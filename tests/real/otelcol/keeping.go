package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/extension"
	"go.opentelemetry.io/collector/extension/xextension/storage"
)

// keeping is a file_storage of our own, so that the Collector's persistent queue can be
// killed in tests: a log of JSON lines a client, one write a batch. SIGKILL comes before
// a write or behind it, so a batch is there wholly or not at all. Of contrib's settings
// it knows `directory`; it syncs nothing to the disk and shrinks at its start alone.
type keeping struct{ directory string }

func newKeeping() extension.Factory {
	return extension.NewFactory(component.MustNewType("file_storage"), settings,
		func(_ context.Context, _ extension.Settings, given component.Config) (extension.Extension, error) {
			directory, _ := (*given.(*anything))["directory"].(string)
			if directory == "" {
				return nil, fmt.Errorf("file_storage: directory is needed")
			}
			return &keeping{directory}, nil
		}, component.StabilityLevelDevelopment)
}

func (k *keeping) Start(context.Context, component.Host) error { return os.MkdirAll(k.directory, 0o700) }

func (*keeping) Shutdown(context.Context) error { return nil }

func (k *keeping) GetClient(_ context.Context, kind component.Kind, id component.ID, name string) (storage.Client, error) {
	file := strings.ReplaceAll(fmt.Sprintf("%s_%s_%s.jsonl", kind, id, name), "/", "_")
	return openKept(filepath.Join(k.directory, file))
}

type kept struct {
	lock   sync.Mutex
	values map[string][]byte
	file   *os.File
}

// Each line of the file is a map of the keys that a batch changes; null deletes.
func openKept(path string) (*kept, error) {
	k := &kept{values: map[string][]byte{}}
	if content, err := os.ReadFile(path); err == nil {
		for _, line := range strings.Split(string(content), "\n") {
			changed := map[string][]byte{}
			if json.Unmarshal([]byte(line), &changed) == nil {
				k.apply(changed)
			}
		}
	}
	line, err := json.Marshal(k.values)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(path+".new", append(line, '\n'), 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, err
	}
	k.file, err = os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0o600)
	return k, err
}

func (k *kept) apply(changed map[string][]byte) {
	for key, value := range changed {
		if value == nil {
			delete(k.values, key)
		} else {
			k.values[key] = value
		}
	}
}

func (k *kept) Batch(_ context.Context, operations ...*storage.Operation) error {
	k.lock.Lock()
	defer k.lock.Unlock()
	changed := map[string][]byte{}
	for _, operation := range operations {
		switch operation.Type {
		case storage.Get:
			operation.Value = k.values[operation.Key]
		case storage.Set:
			changed[operation.Key] = append([]byte{}, operation.Value...)
		case storage.Delete:
			changed[operation.Key] = nil
		}
	}
	if len(changed) == 0 {
		return nil
	}
	line, err := json.Marshal(changed)
	if err != nil {
		return err
	}
	if _, err := k.file.Write(append(line, '\n')); err != nil {
		return err
	}
	k.apply(changed)
	return nil
}

func (k *kept) Get(ctx context.Context, key string) ([]byte, error) {
	operation := storage.GetOperation(key)
	err := k.Batch(ctx, operation)
	return operation.Value, err
}

func (k *kept) Set(ctx context.Context, key string, value []byte) error {
	return k.Batch(ctx, storage.SetOperation(key, value))
}

func (k *kept) Delete(ctx context.Context, key string) error {
	return k.Batch(ctx, storage.DeleteOperation(key))
}

func (k *kept) Close(context.Context) error { return k.file.Close() }
