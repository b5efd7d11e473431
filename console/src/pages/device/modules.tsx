/** What is desired, what is reported, and where they differ. */
import { Alert, Anchor, Button, Group, Stack, Table, Text, Tooltip } from '@mantine/core'
import { notifications } from '@mantine/notifications'
import { useMutation } from '@tanstack/react-query'
import { Link } from '@tanstack/react-router'
import type { ReactNode } from 'react'

import { Failure } from '../../api/client'
import { invoke } from '../../api/queries'
import type { DeviceView, ModuleView } from '../../api/types'
import { Ago, Copy, Empty } from '../../parts/common'
import { moduleTone, State } from '../../parts/state'
import { useDevice } from './context'

const METHOD_SECONDS = 30

export function Modules(): ReactNode {
  const { id, view } = useDevice()
  if (view.edge === null) return <Plain view={view} id={id} />
  const { edge } = view
  if (edge.modules.length === 0) {
    return (
      <Empty title="No modules are set" commands={[`selvedge edge set-modules ${id} --content deployment.json`]}>
        The device runs what its deployment manifest says. <Link to="/devices/$device/set-modules" params={{ device: id }}>Write one here</Link>, or give a file:
      </Empty>
    )
  }
  const late = edge.lastDesiredVersion !== null && edge.lastDesiredVersion < edge.desiredVersion
  const status = edge.lastDesiredStatus
  return (
    <Stack gap="md">
      {late && (
        <Alert color="denim" variant="light" title="The device has not taken over the newest deployment" role="status">
          Version {edge.desiredVersion} is set, the device last spoke of version {edge.lastDesiredVersion}. It takes it over as soon as it is connected.
        </Alert>
      )}
      {status !== null && status.code !== 200 && status.code !== 406 && (
        <Alert color="thread" variant="light" title={`The device refuses the deployment (${status.code})`} role="alert">
          {status.description ?? 'It gave no reason.'}
        </Alert>
      )}
      <Table.ScrollContainer minWidth={860} scrollAreaProps={{ viewportProps: { tabIndex: 0, 'aria-label': 'Modules' } }}>
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Module</Table.Th>
              <Table.Th>Desired</Table.Th>
              <Table.Th>Reported</Table.Th>
              <Table.Th>Started</Table.Th>
              <Table.Th>Restarts</Table.Th>
              <Table.Th>Exit code</Table.Th>
              <Table.Th>Image</Table.Th>
              <Table.Th>
                <span className="hidden-text">Actions</span>
              </Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {edge.modules.map((module) => (
              <Row key={module.moduleId} module={module} device={id} />
            ))}
          </Table.Tbody>
        </Table>
      </Table.ScrollContainer>
    </Stack>
  )
}

function Row({ module, device }: { module: ModuleView; device: string }): ReactNode {
  const { desired, reported } = module
  const ended = reported?.lastExitTimeUtc && !reported.lastExitTimeUtc.startsWith('0001')
  return (
    <Table.Tr data-module={module.moduleId}>
      <Table.Td>
        <Text fw={600} size="sm">
          {module.moduleId}
        </Text>
        {module.system && (
          <Text size="xs" c="dimmed">
            part of the runtime
          </Text>
        )}
      </Table.Td>
      <Table.Td>{desired === null ? 'not in the deployment' : (desired.status ?? 'running')}</Table.Td>
      <Table.Td>
        <State tone={moduleTone(module)}>{reported?.runtimeStatus ?? 'not reported yet'}</State>
        {reported?.statusDescription && !module.system && (
          <Text size="xs" c="dimmed" maw={260}>
            {reported.statusDescription}
          </Text>
        )}
      </Table.Td>
      <Table.Td className="nowrap">
        <Ago time={reported?.lastStartTimeUtc} />
      </Table.Td>
      <Table.Td>
        {reported?.restartCount ?? '–'}
        {reported?.restartCount ? (
          <Text size="xs" c="dimmed" className="nowrap">
            last <Ago time={reported.lastRestartTimeUtc} />
          </Text>
        ) : null}
      </Table.Td>
      <Table.Td>{ended ? reported?.exitCode : '–'}</Table.Td>
      <Table.Td>
        <Image module={module} />
      </Table.Td>
      <Table.Td>
        <Group gap="xs" wrap="nowrap">
          {!module.system && (
            <>
              <Anchor component={Link} to={`/devices/${encodeURIComponent(device)}/logs?module=${encodeURIComponent(module.moduleId)}`} size="sm">
                Logs
              </Anchor>
              <Restart device={device} module={module.moduleId} />
            </>
          )}
        </Group>
      </Table.Td>
    </Table.Tr>
  )
}

/** The image's name, and the digest of what really runs. */
function Image({ module }: { module: ModuleView }): ReactNode {
  const digest = module.reported?.imageDigest
  return (
    <>
      <span className="mono">{module.desired?.image ?? module.reported?.image ?? '–'}</span>
      {digest && (
        <Group gap={2} wrap="nowrap">
          <Tooltip label={digest}>
            <Text size="xs" c="dimmed" className="mono" tabIndex={0}>
              {digest.replace(/^(sha256:)?(.{12}).*$/u, '$1$2…')}
            </Text>
          </Tooltip>
          <Copy text={digest} label="Copy the digest" />
        </Group>
      )}
    </>
  )
}

function Restart({ device, module }: { device: string; module: string }): ReactNode {
  const restart = useMutation({
    mutationFn: () => invoke(device, '$edgeAgent', 'RestartModule', { schemaVersion: '1.0', id: module }, METHOD_SECONDS),
    onSuccess: (result) =>
      notifications.show(result.status === 200 ? { message: `${module} restarts`, color: 'teal' } : { message: `${module}: the device answered ${result.status}`, color: 'red' }),
    onError: (error) => notifications.show({ title: `${module} was not restarted`, message: error instanceof Failure ? `${error.message}. ${error.advice}` : String(error), color: 'red' }),
  })
  return (
    <Button size="compact-sm" variant="default" loading={restart.isPending} onClick={() => restart.mutate()} aria-label={`Restart ${module}`}>
      Restart
    </Button>
  )
}

/** A device without the edge runtime: its module identities, if there are any. */
function Plain({ view, id }: { view: DeviceView; id: string }): ReactNode {
  const modules = view.twins.filter((twin) => twin.moduleId !== null)
  return (
    <Stack>
      <Text c="dimmed">
        This device does not run the edge runtime. Its <Link to="/devices/$device/telemetry" params={{ device: id }}>telemetry</Link>, <Link to="/devices/$device/twin" params={{ device: id }}>twin</Link> and{' '}
        <Link to="/devices/$device/methods" params={{ device: id }}>methods</Link> are in the other tabs.
      </Text>
      {modules.length > 0 && (
        <Table>
          <Table.Thead>
            <Table.Tr>
              <Table.Th>Module identity</Table.Th>
              <Table.Th>State</Table.Th>
            </Table.Tr>
          </Table.Thead>
          <Table.Tbody>
            {modules.map((twin) => (
              <Table.Tr key={twin.moduleId}>
                <Table.Td>{twin.moduleId}</Table.Td>
                <Table.Td>
                  <State tone={twin.connected ? 'ok' : 'quiet'}>{twin.connected ? 'connected' : 'disconnected'}</State>
                </Table.Td>
              </Table.Tr>
            ))}
          </Table.Tbody>
        </Table>
      )}
    </Stack>
  )
}
