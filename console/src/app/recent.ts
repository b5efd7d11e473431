/** Devices that were opened last in this browser. */
const NAME = 'selvedge.recent'
const MOST = 6

let held: readonly string[] = read()
const watchers = new Set<() => void>()

function read(): string[] {
  try {
    const value: unknown = JSON.parse(localStorage.getItem(NAME) ?? '[]')
    return Array.isArray(value) ? value.filter((item) => typeof item === 'string').slice(0, MOST) : []
  } catch {
    return []
  }
}

export function rememberDevice(id: string): void {
  if (held.includes(id)) return
  held = [id, ...held].slice(0, MOST)
  try {
    localStorage.setItem(NAME, JSON.stringify(held))
  } catch {
    // Without storage it holds for this visit.
  }
  for (const watcher of watchers) watcher()
}

export function recent(): readonly string[] {
  return held
}

export function watchRecent(watcher: () => void): () => void {
  watchers.add(watcher)
  return () => watchers.delete(watcher)
}
