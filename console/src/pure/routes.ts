/** Modules and routes as a graph. Routes are parsed by the hub or the device; this only draws. Pure. */

/** A route as the hub's validator and the device tell it. */
export type Route = {
  name: string
  /** `/messages/modules/sensor/outputs/*` */
  source: string
  condition: string | null
  /** `$upstream`, or `module/input`. */
  endpoint: string
  priority: number
  timeToLiveSecs: number | null
}
export type GraphNode = { id: string; kind: 'module' | 'any' | 'upstream'; label: string; known: boolean }
export type GraphEdge = {
  id: string
  from: string
  to: string
  route: Route
  /** Of the sender; null is every output. */
  output: string | null
  /** Of the receiver; null for the hub. */
  input: string | null
}
export type Graph = { nodes: GraphNode[]; edges: GraphEdge[] }

export const UPSTREAM = '$upstream'
/** A sender that no route names: devices below this one. */
export const ANY = '*'

/** The module and output a route listens to; null is "every". */
export function source(route: Route): { module: string | null; output: string | null } {
  const parts = route.source.split('/').filter((part) => part !== '' && part !== '*')
  const named = parts[0]?.toLowerCase() === 'messages' && parts[1]?.toLowerCase() === 'modules'
  if (!named) return { module: null, output: null }
  const outputs = parts[3]?.toLowerCase() === 'outputs'
  return { module: parts[2] ?? null, output: outputs ? (parts[4] ?? null) : null }
}

/** The module and input a route leads to; null for the hub. */
export function sink(route: Route): { module: string; input: string } | null {
  if (route.endpoint === UPSTREAM) return null
  const brokered = /\/modules\/([^/"]+)\/inputs\/([^/"]+)/u.exec(route.endpoint)
  const at = route.endpoint.indexOf('/')
  if (brokered) return { module: brokered[1] ?? '', input: brokered[2] ?? '' }
  return { module: route.endpoint.slice(0, at), input: route.endpoint.slice(at + 1) }
}

/** A node for each module and for the hub; an edge for each route and sender. */
export function graph(modules: readonly string[], routes: readonly Route[]): Graph {
  const nodes = new Map<string, GraphNode>()
  const module = (name: string, known: boolean): void => {
    if (!nodes.has(name)) nodes.set(name, { id: name, kind: 'module', label: name, known })
  }
  for (const name of modules) module(name, true)
  const edges: GraphEdge[] = []
  for (const route of routes) {
    const from = source(route)
    const to = sink(route)
    if (to) module(to.module, false)
    // Who sends is said by name, or it is every module; without modules, whoever comes.
    const senders = from.module !== null ? [from.module] : modules.length > 0 ? modules : [ANY]
    for (const sender of senders) {
      // A module's own messages do not come back to it by a route from everywhere.
      if (from.module === null && sender === to?.module) continue
      if (sender === ANY) nodes.set(ANY, { id: ANY, kind: 'any', label: 'any sender', known: true })
      else module(sender, false)
      edges.push({ id: `${route.name} ${sender}`, from: sender, to: to?.module ?? UPSTREAM, route, output: from.output, input: to?.input ?? null })
    }
  }
  nodes.set(UPSTREAM, { id: UPSTREAM, kind: 'upstream', label: 'hub', known: true })
  return { nodes: [...nodes.values()], edges }
}

/** Whether messages of `module` on `output` take the way of `edge`, as far as one can tell without the condition. */
export function carries(edge: GraphEdge, module: string, output: string | null): boolean {
  return edge.from === module && (edge.output === null || edge.output === output)
}

/** Messages that went no further, as the device tells it. */
export type Drop = { endpoint: string | null; reason: string; total: number }

/**
 * Where drops belong in the picture: at the edge, if only one leads to their endpoint; else at the
 * node; `nowhere` are those that no route wanted.
 */
export function placeDrops(edges: readonly GraphEdge[], dropped: readonly Drop[]): { edges: Map<string, Drop[]>; nodes: Map<string, Drop[]>; nowhere: Drop[] } {
  const placed = { edges: new Map<string, Drop[]>(), nodes: new Map<string, Drop[]>(), nowhere: [] as Drop[] }
  const add = (map: Map<string, Drop[]>, key: string, drop: Drop): void => void map.set(key, [...(map.get(key) ?? []), drop])
  for (const drop of dropped) {
    if (drop.total === 0) continue
    if (drop.endpoint === null) {
      placed.nowhere.push(drop)
      continue
    }
    const leading = edges.filter((edge) => edge.route.endpoint === drop.endpoint)
    const [only] = leading
    if (only !== undefined && leading.length === 1) add(placed.edges, only.id, drop)
    else add(placed.nodes, drop.endpoint === UPSTREAM ? UPSTREAM : (drop.endpoint.split('/')[0] ?? ''), drop)
  }
  return placed
}
