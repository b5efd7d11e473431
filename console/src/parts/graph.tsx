/** Modules and routes, laid out from left to right. */
import '@xyflow/react/dist/style.css'

import { Graph as Layout, layout } from '@dagrejs/dagre'
import { BaseEdge, Controls, EdgeLabelRenderer, Handle, MarkerType, Position, ReactFlow, type Edge, type EdgeProps, type Node, type NodeProps } from '@xyflow/react'
import { useComputedColorScheme } from '@mantine/core'
import { useMediaQuery } from '@mantine/hooks'
import { useMemo, type ReactNode } from 'react'

import type { Graph } from '../pure/routes'
import type { Tone } from './state'

export type NodeFace = { title: string; lines: string[]; tone: Tone }
export type EdgeFace = { lines: string[]; tone: Tone }
type Props = { graph: Graph; node: (id: string) => NodeFace; edge: (id: string) => EdgeFace; open?: (edge: string) => void; label: string }

const NODE = { width: 170, height: 64 }
const LABEL = { width: 150, height: 52 }
/** Pixels. */
const HEIGHT_MIN = 300
const HEIGHT_MAX = 620

type ModuleNode = Node<{ face: NodeFace; kind: string }, 'module'>
type CornerNode = Node<Record<string, never>, 'corner'>
type RouteEdge = Edge<{ face: EdgeFace; open: (() => void) | undefined; name: string; bend: Point[]; label: Point }, 'route'>
type Point = { x: number; y: number }
type Plan = { nodes: Map<string, Point>; edges: Map<string, { bend: Point[]; label: Point }>; width: number; height: number }

const nodeTypes = { module: ModuleBox, corner: Corner }
const edgeTypes = { route: RouteLine }

export default function GraphView({ graph, node, edge, open, label }: Props): ReactNode {
  const dark = useComputedColorScheme('light') === 'dark'
  // Places depend on who is there, not on what flows: nothing jumps while rates change.
  const shape = JSON.stringify([graph.nodes.map((held) => held.id), graph.edges.map((held) => held.id)])
  const narrow = useMediaQuery('(max-width: 48em)', false, { getInitialValueInEffect: false })
  const plan = useMemo(() => arrange(graph, narrow), [shape, narrow])
  const boxes: ModuleNode[] = graph.nodes.map((held) => ({
    id: held.id,
    type: 'module',
    position: plan.nodes.get(held.id) ?? { x: 0, y: 0 },
    data: { face: node(held.id), kind: held.kind },
    sourcePosition: narrow ? Position.Bottom : Position.Right,
    targetPosition: narrow ? Position.Top : Position.Left,
    ariaLabel: [node(held.id).title, ...node(held.id).lines].join(', '),
  }))
  // The view fits boxes; these make room for labels that stand further out.
  const corners = [{ x: 0, y: 0 }, { x: plan.width, y: plan.height }].map((position, index): CornerNode => ({ id: `corner ${index}`, type: 'corner', position, data: {}, focusable: false, selectable: false }))
  const edges: RouteEdge[] = graph.edges.map((held) => ({
    id: held.id,
    source: held.from,
    target: held.to,
    type: 'route',
    markerEnd: { type: MarkerType.ArrowClosed, width: 18, height: 18 },
    data: { ...(plan.edges.get(held.id) ?? { bend: [], label: { x: 0, y: 0 } }), face: edge(held.id), name: held.route.name, open: open && ((): void => open(held.id)) },
    ariaLabel: `route ${held.route.name} from ${held.from} to ${held.to}`,
  }))
  return (
    <div className="graph" role="group" aria-label={label} style={{ height: Math.min(HEIGHT_MAX, Math.max(HEIGHT_MIN, plan.height * 1.25)) }}>
      <ReactFlow
        nodes={[...boxes, ...corners]}
        edges={edges}
        nodeTypes={nodeTypes}
        edgeTypes={edgeTypes}
        colorMode={dark ? 'dark' : 'light'}
        fitView
        fitViewOptions={{ padding: 0.08, maxZoom: 1.15 }}
        minZoom={0.2}
        nodesConnectable={false}
        nodesDraggable={false}
        edgesFocusable={false}
        proOptions={{ hideAttribution: true }}
        preventScrolling={false}
        zoomOnScroll={false}
      >
        <Controls showInteractive={false} />
      </ReactFlow>
    </div>
  )
}

function arrange(graph: Graph, narrow: boolean): Plan {
  const plan = new Layout({ multigraph: true })
  plan.setGraph({ rankdir: narrow ? 'TB' : 'LR', ranksep: narrow ? 16 : 40, nodesep: 44, edgesep: 28, marginx: 8, marginy: 8 })
  plan.setDefaultEdgeLabel(() => ({}))
  for (const node of graph.nodes) plan.setNode(node.id, { ...NODE })
  for (const edge of graph.edges) plan.setEdge(edge.from, edge.to, { ...LABEL, labelpos: 'c' }, edge.id)
  layout(plan)
  const corner = (id: string): Point => {
    const { x, y } = plan.node(id) as Point
    return { x: x - NODE.width / 2, y: y - NODE.height / 2 }
  }
  const way = (edge: Graph['edges'][number]): { bend: Point[]; label: Point } => {
    const { points, x, y } = plan.edge(edge.from, edge.to, edge.id) as { points: Point[]; x: number; y: number }
    // The ends come from the boxes; only what lies between is the layout's.
    return { bend: points.slice(1, -1), label: { x, y } }
  }
  const { width, height } = plan.graph() as { width: number; height: number }
  return { nodes: new Map(graph.nodes.map((node) => [node.id, corner(node.id)])), edges: new Map(graph.edges.map((edge) => [edge.id, way(edge)])), width, height }
}

/** A soft line from box to box by way of the layout's points: straight on at every point. */
function soft(points: Point[], downwards: boolean): string {
  const [first, ...rest] = points
  if (!first) return ''
  let path = `M ${first.x} ${first.y}`
  let before = first
  for (const point of rest) {
    const [x, y] = [(before.x + point.x) / 2, (before.y + point.y) / 2]
    path += downwards ? ` C ${before.x} ${y}, ${point.x} ${y}, ${point.x} ${point.y}` : ` C ${x} ${before.y}, ${x} ${point.y}, ${point.x} ${point.y}`
    before = point
  }
  return path
}

function ModuleBox({ data, sourcePosition = Position.Right, targetPosition = Position.Left }: NodeProps<ModuleNode>): ReactNode {
  return (
    <div className="node" data-kind={data.kind} data-tone={data.face.tone} style={{ width: NODE.width, minHeight: NODE.height }}>
      <Handle type="target" position={targetPosition} isConnectable={false} />
      <b>{data.face.title}</b>
      {data.face.lines.map((line) => (
        <div key={line} style={{ fontSize: '0.72rem' }}>
          {line}
        </div>
      ))}
      <Handle type="source" position={sourcePosition} isConnectable={false} />
    </div>
  )
}

function Corner(): ReactNode {
  return <div style={{ width: 1, height: 1 }} aria-hidden="true" />
}

function RouteLine({ sourceX, sourceY, targetX, targetY, sourcePosition, markerEnd, data }: EdgeProps<RouteEdge>): ReactNode {
  const path = soft([{ x: sourceX, y: sourceY }, ...(data?.bend ?? []), { x: targetX, y: targetY }], sourcePosition === Position.Bottom)
  const { x, y } = data?.label ?? { x: 0, y: 0 }
  return (
    <>
      <BaseEdge path={path} {...(markerEnd === undefined ? {} : { markerEnd })} />
      <EdgeLabelRenderer>
        <button type="button" className="wire nodrag nopan" data-tone={data?.face.tone} data-route={data?.name} style={{ transform: `translate(-50%, -50%) translate(${x}px, ${y}px)` }} onClick={data?.open} disabled={data?.open === undefined}>
          {data?.face.lines.map((line) => (
            <div key={line}>{line}</div>
          ))}
        </button>
      </EdgeLabelRenderer>
    </>
  )
}
